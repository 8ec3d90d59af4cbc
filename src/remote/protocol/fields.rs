//! How the peer writes numbers: two decimals, sizes with a unit beside them, shares from 0 to 1.

use serde_json::{Map, Value};

/// Units of sizes, in steps of 1024.
const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];

/// An object in the making.
#[derive(Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// A field; what is absent is left out.
    pub(super) fn put(&mut self, name: &str, value: Option<Value>) -> &mut Self {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    /// A number that is counted.
    pub(super) fn count(&mut self, name: &str, value: Option<u64>) -> &mut Self {
        self.put(name, value.map(Value::from))
    }

    /// A number with two decimals.
    pub(super) fn number(&mut self, name: &str, value: Option<f64>) -> &mut Self {
        self.put(name, value.map(two_decimals))
    }

    /// A size in bytes, or bytes per second: a number, and its unit in `NAME_unit`.
    pub(super) fn size(&mut self, name: &str, bytes: Option<f64>) -> &mut Self {
        let Some(bytes) = bytes else { return self };
        let (value, unit) = scaled(bytes);
        self.put(name, Some(two_decimals(value)));
        self.put(&format!("{name}_unit"), Some(unit.into()))
    }

    /// A size and its share of a whole, the latter under another name.
    pub(super) fn share_of(
        &mut self,
        name: &str,
        part: Option<f64>,
        whole: Option<f64>,
    ) -> &mut Self {
        self.number(name, part.zip(whole).map(|(part, whole)| share(part, whole)))
    }

    /// The object.
    pub(super) fn done(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.0))
    }
}

/// 0 to 1; nothing of nothing is nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

pub(super) fn two_decimals(value: f64) -> Value {
    Value::from((value * 100.0).round() / 100.0)
}

/// A size in the largest unit of which it has one.
pub(super) fn scaled(bytes: f64) -> (f64, &'static str) {
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
    fn sizes_have_the_largest_unit_that_fits() {
        for (bytes, value, unit) in [
            (0.0, 0.0, "B"),
            (1023.0, 1023.0, "B"),
            (1024.0, 1.0, "KB"),
            (1536.0 * 1024.0, 1.5, "MB"),
            (3.0 * 1024f64.powi(5), 3072.0, "TB"),
        ] {
            assert_eq!(scaled(bytes), (value, unit));
        }
        let mut fields = Fields::default();
        fields.size("free", Some(1234.5 * 1024.0)).share_of("free_rate", Some(1.0), Some(3.0));
        fields.size("used", None).share_of("none", Some(0.0), Some(0.0));
        let text = r#"{"free":1.21,"free_rate":0.33,"free_unit":"MB","none":0.0}"#;
        assert_eq!(fields.done().to_string(), text);
    }
}
