//! A settings file: it is refused in one line that says where, or it becomes settings whose effective form is TOML and
//! means the same when it is read again. No secret is in it.
#![no_main]

use std::fs;

use hm_agent::config::{Config, Settings, Sources};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("hm-fuzz-{}.toml", std::process::id()));
    let load = |text: &[u8]| {
        fs::write(&path, text).expect("a file");
        Settings::load(&Sources { file: Some(path.clone()), ..Default::default() })
    };
    let settings = match load(data) {
        Ok(settings) => settings,
        Err(error) => {
            let error = error.to_string();
            assert_eq!(error.lines().count(), 1, "{error:?}");
            assert!(error.chars().all(|letter| !letter.is_control()), "{error:?}");
            return;
        }
    };
    // Token files that do not exist are its only reason to refuse, and addresses that are no addresses.
    if let Err(error) = Config::new(&settings) {
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
    let shown = settings.effective();
    let again = load(shown.as_bytes()).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let changed = again.changed_until_restart(&settings);
    // Addresses with a query are not shown whole.
    let secret = |key: &&str| key.ends_with("token") || key.ends_with(".url");
    assert!(changed.iter().all(|key| secret(key)), "{changed:?} of {shown}");
});
