//! Values in the protocol's notation: two decimals, sizes with a unit in a second field, shares from 0 to 1.

use serde_json::{Map, Value};

/// Units of sizes, in steps of 1024.
const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];

/// A JSON object under construction.
#[derive(Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Adds a field; `None` adds nothing.
    pub(super) fn put(&mut self, name: &str, value: Option<Value>) -> &mut Self {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    /// Adds an integer.
    pub(super) fn count(&mut self, name: &str, value: Option<u64>) -> &mut Self {
        self.put(name, value.map(Value::from))
    }

    /// Adds a number with two decimals.
    pub(super) fn number(&mut self, name: &str, value: Option<f64>) -> &mut Self {
        self.put(name, value.map(two_decimals))
    }

    /// Adds a size in bytes, or bytes per second: a number, and its unit in `NAME_unit`.
    pub(super) fn size(&mut self, name: &str, bytes: Option<f64>) -> &mut Self {
        let Some(bytes) = bytes else { return self };
        let (value, unit) = scale(bytes);
        self.put(name, Some(two_decimals(value)));
        self.put(&format!("{name}_unit"), Some(unit.into()))
    }

    /// Adds the share of `part` in `whole`, if both are known.
    pub(super) fn share_of(
        &mut self,
        name: &str,
        part: Option<f64>,
        whole: Option<f64>,
    ) -> &mut Self {
        self.number(name, part.zip(whole).map(|(part, whole)| share(part, whole)))
    }

    /// Returns the object.
    pub(super) fn finish(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.0))
    }
}

/// Fraction from 0 to 1; 0 if the whole is 0.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

pub(super) fn two_decimals(value: f64) -> Value {
    Value::from((value * 100.0).round() / 100.0)
}

/// Converts a size to the largest unit in which it is at least 1.
fn scale(bytes: f64) -> (f64, &'static str) {
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    (value, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_use_largest_unit_that_fits() {
        for (bytes, value, unit) in [
            (0.0, 0.0, "B"),
            (1023.0, 1023.0, "B"),
            (1024.0, 1.0, "KB"),
            (1536.0 * 1024.0, 1.5, "MB"),
            (3.0 * 1024f64.powi(5), 3072.0, "TB"),
        ] {
            assert_eq!(scale(bytes), (value, unit));
        }
        let mut fields = Fields::default();
        fields.size("free", Some(1234.5 * 1024.0)).share_of("free_rate", Some(1.0), Some(3.0));
        fields.size("used", None).share_of("none", Some(0.0), Some(0.0));
        let text = r#"{"free":1.21,"free_rate":0.33,"free_unit":"MB","none":0.0}"#;
        assert_eq!(fields.finish().to_string(), text);
    }
}
