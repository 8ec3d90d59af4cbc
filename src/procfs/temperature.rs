//! `/sys/class/thermal/thermal_zone*/temp` and `/sys/class/hwmon/hwmon*/temp*_input`: a temperature in thousandths of a degree.
//!
//! Format: kernel `Documentation/driver-api/thermal/sysfs-api.rst` and `Documentation/hwmon/sysfs-interface.rst`. Two real files,
//! the second one of a thermal zone of a Jetson that is switched off:
//!
//! ```text
//! 47400
//! -256000
//! ```

use std::ops::RangeInclusive;

use crate::procfs::ParseError;

/// Plausible temperatures. Drivers and firmware return values beyond for a sensor that is off, absent or broken: absolute zero
/// (-273.15 °C, ACPI -273.2 °C), -256 °C, the limits of registers (-128 °C, 255 °C, 65 535 K as 65 261.85 °C for NVMe) and of
/// integers. No place on earth is colder than -90 °C, sensors are specified to -64 °C, and silicon fails below 200 °C.
const PLAUSIBLE_MILLICELSIUS: RangeInclusive<i64> = -100_000..=250_000;

/// Returns thousandths of a degree Celsius. An implausible temperature is an error.
pub fn parse_millicelsius(text: &[u8]) -> Result<i64, ParseError> {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.parse().ok())
        .filter(|millicelsius| is_plausible(*millicelsius))
        .ok_or_else(|| ParseError::new(1, "a temperature in millidegrees", line))
}

pub fn is_plausible(millicelsius: i64) -> bool {
    PLAUSIBLE_MILLICELSIUS.contains(&millicelsius)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    #[test]
    fn parses_plausible_temperatures() {
        for (text, expected) in [
            ("47400\n", 47_400),
            ("-38500", -38_500),
            ("0\n", 0),
            ("-89200\n", -89_200),
            ("127000\n", 127_000),
        ] {
            assert_eq!(parse_millicelsius(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn rejects_values_of_sensors_without_reading() {
        for text in [
            "-256000",
            "-273150",
            "-273200",
            "-274000",
            "-128000",
            "-32768000",
            "-2147483648",
            "255000",
            "65261850",
            "65535000",
            "2147483647",
            "4294967295",
            "99999999999999999999",
        ] {
            assert!(parse_millicelsius(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn rejects_malformed_text() {
        for bad in [&b""[..], b"\n", b"hot\n", b"45.5\n", b"0x8000\n", b"\xff"] {
            assert!(parse_millicelsius(bad).is_err());
        }
        parse_every_prefix(b"-38500\n", parse_millicelsius);
    }
}
