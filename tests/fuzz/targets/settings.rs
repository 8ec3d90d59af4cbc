//! Loads a configuration file. Either the error is one line, or the effective settings are TOML that loads to the same settings
//! and contains no secret.
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
    // May fail for missing token files and invalid addresses.
    if let Err(error) = Config::new(&settings) {
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
    let effective = settings.effective();
    let again = load(effective.as_bytes()).unwrap_or_else(|error| panic!("{error}: {effective}"));
    let changed = again.changed_until_restart(&settings);
    // URLs are printed without their query.
    let secret = |key: &&str| key.ends_with("token") || key.ends_with(".url");
    assert!(changed.iter().all(|key| secret(key)), "{changed:?} of {effective}");
});
