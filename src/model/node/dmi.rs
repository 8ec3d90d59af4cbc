//! Names of the machine, from its firmware.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dmi {
    /// Names of attributes, such as `board_name`, and their values.
    pub attributes: Vec<(&'static str, String)>,
}
