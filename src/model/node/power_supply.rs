//! Power supplies and batteries.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PowerSupplies {
    pub supplies: Vec<PowerSupply>,
    /// Number of supplies that are not read because there are too many.
    pub truncated: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerSupply {
    pub name: String,
    /// Names of attributes that are numbers, such as `voltage_now`, and their values in the units of the kernel.
    pub values: Vec<(String, i64)>,
    /// Names of all attributes and their texts: a serial number may consist of digits.
    pub texts: Vec<(String, String)>,
}
