//! Checks `/metrics` against the specifications of both formats: each line is metadata or a sample, families are contiguous, and no
//! `hm_agent_*` series is repeated.

use std::collections::HashSet;

use hm_agent::metrics::Format;

/// Panics if the text does not conform to `format`.
pub fn check(text: &[u8], format: Format) {
    let text = str::from_utf8(text).expect("metrics are UTF-8");
    let body = match format {
        Format::Prometheus => text,
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("OpenMetrics ends with # EOF"),
    };
    assert!(body.is_empty() || body.ends_with('\n'), "the last line is truncated");
    let (mut family, mut families) = ("", HashSet::new());
    let mut series = HashSet::new();
    for line in body.lines() {
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut fields = metadata.splitn(3, ' ');
            let (kind, name) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
            assert!(["HELP", "TYPE"].contains(&kind), "{line:?}");
            assert!(is_name(name), "{line:?}");
            if name != family {
                // Names of memory metrics come from the kernel, and fuzzed input may repeat them.
                let is_new = families.insert(name) || name.starts_with("node_memory_");
                assert!(is_new, "family {name} is repeated");
                family = name;
            }
            continue;
        }
        let (name, labels, value) =
            sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
        let sample_family =
            name.strip_suffix("_total").filter(|short| *short == family).unwrap_or(name);
        assert_eq!(sample_family, family, "a sample outside its family: {line:?}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("not a number: {line:?}"));
        assert!(value.is_finite(), "{line:?}");
        // Device names of a real kernel are unique, those of fuzzed input need not be. Ids of applications are unique.
        let is_new = series.insert((name, labels));
        assert!(is_new || !name.starts_with("hm_agent_"), "repeated series: {line:?}");
    }
}

/// Splits a line into name, labels and value.
fn sample(line: &str) -> Option<(&str, &str, &str)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let labels = if rest.starts_with('{') { labels(rest)? } else { 0 };
    let (labels, value) = rest.split_at(labels);
    is_name(name).then_some((name, labels, value.strip_prefix(' ')?))
}

/// The length of `{name="value",…}`.
fn labels(text: &str) -> Option<usize> {
    let mut rest = &text[1..];
    let mut names = HashSet::new();
    loop {
        let (name, after) = rest.split_once("=\"")?;
        if !is_name(name) || name.contains(':') || !names.insert(name) {
            return None;
        }
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\n') => return None,
                (_, '\\') if !['\\', '"', 'n'].contains(&letters.next()?.1) => return None,
                _ => {}
            }
        };
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return rest.starts_with('}').then(|| text.len() - rest.len() + 1),
        }
    }
}

fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    let mut bytes = name.bytes();
    bytes.next().is_some_and(letter) && bytes.all(|byte| letter(byte) || byte.is_ascii_digit())
}
