//! localtime_r(3).

use std::ffi::CStr;

/// Returns the abbreviation of the time zone of this process at a time since 1970, and how many seconds it is east of UTC.
pub fn time_zone(unix_seconds: u64) -> Option<(String, i64)> {
    // libc deprecates the name of the type for musl, so it is inferred.
    let time = unix_seconds.try_into().ok()?;
    // SAFETY: all fields are integers and a pointer, for which zero is valid.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call. It reads the environment, which nothing changes while threads run.
    if unsafe { libc::localtime_r(&raw const time, &raw mut local) }.is_null()
        || local.tm_zone.is_null()
    {
        return None;
    }
    // SAFETY: the C library keeps the names of zones as long as the process runs.
    let name = unsafe { CStr::from_ptr(local.tm_zone) };
    Some((name.to_str().ok()?.to_owned(), local.tm_gmtoff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_that_of_date() {
        let mut date = std::process::Command::new("date");
        // Other implementations than GNU's do not know the option.
        let Ok(output) = date.args(["-d", "@1795216252", "+%Z %z"]).output() else { return };
        let expected = String::from_utf8(output.stdout).unwrap();
        let (name, seconds) = time_zone(1_795_216_252).unwrap();
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.unsigned_abs() / 60;
        let found = format!("{name} {sign}{:02}{:02}", minutes / 60, minutes % 60);
        assert_eq!(found, expected.trim());
    }
}
