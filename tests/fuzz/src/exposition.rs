//! A judge of `/metrics`, written after the two specifications: whatever the names, every line is a heading or a sample,
//! families are in one piece, and no series of our own
//! comes twice.

use std::collections::HashSet;

use hm_agent::metrics::Format;

/// Panics where the text is not what `format` asks for.
pub fn check(text: &[u8], format: Format) {
    let text = str::from_utf8(text).expect("series are UTF-8");
    let body = match format {
        Format::Prometheus => text,
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("OpenMetrics ends with EOF"),
    };
    assert!(body.is_empty() || body.ends_with('\n'), "the last line is cut");
    let (mut family, mut families) = ("", HashSet::new());
    let mut series = HashSet::new();
    for line in body.lines() {
        if let Some(heading) = line.strip_prefix("# ") {
            let mut words = heading.splitn(3, ' ');
            let (kind, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            assert!(["HELP", "TYPE"].contains(&kind), "{line:?}");
            assert!(is_name(name), "{line:?}");
            if name != family {
                // Those of memory are named by the kernel, which has each once.
                let is_new = families.insert(name) || name.starts_with("node_memory_");
                assert!(is_new, "{name} comes twice");
                family = name;
            }
            continue;
        }
        let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"));
        let own = name.strip_suffix("_total").filter(|short| *short == family).unwrap_or(name);
        assert_eq!(own, family, "a sample outside its family: {line:?}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
        assert!(value.is_finite(), "{line:?}");
        // The kernel's names differ because the kernel says so; those of applications because we do.
        let is_new = series.insert((name, labels));
        assert!(is_new || !name.starts_with("hm_agent_"), "the same series twice: {line:?}");
    }
}

/// Name, labels and value of a line.
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
