use super::*;
use crate::procfs::testing::parse_every_prefix;

/// Of the scripts smartmon.sh and apt_info.py of node-exporter-textfile-collector-scripts, and of a batch job.
const REAL: &[u8] = br#"# HELP smartmon_device_smart_healthy SMART metric device_smart_healthy
# TYPE smartmon_device_smart_healthy gauge
smartmon_device_smart_healthy{disk="/dev/sda",type="sat"} 1
smartmon_device_smart_healthy{disk="/dev/sdb",type="sat"} 0
# TYPE apt_upgrades_pending gauge
apt_upgrades_pending{origin="Debian:bookworm/stable",arch="amd64"} 12
node_reboot_required 0
# HELP job_seconds Duration of \\ and\nof "b".
# TYPE job_seconds histogram
job_seconds_bucket{le="0.5",job="a\\b\"c\nd"} 2
job_seconds_bucket{le="+Inf",job="a\\b\"c\nd"} 3
job_seconds_sum{job="a\\b\"c\nd"} 4.5e-1
job_seconds_count{job="a\\b\"c\nd"} 3
# TYPE rpc_seconds summary
rpc_seconds{quantile="0.5"} NaN
rpc_seconds_sum 1.7560473e+07
rpc_seconds_count 18446744073709551615
"#;

fn family(text: &str) -> Family {
    let mut families = parse(text.as_bytes()).unwrap();
    assert_eq!(families.len(), 1, "{families:?}");
    families.remove(0)
}

fn labels(sample: &Sample) -> Vec<(&str, &str)> {
    sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn error(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn parses_a_real_sample() {
    let families = parse(REAL).unwrap();
    let summary: Vec<_> =
        families.iter().map(|each| (&*each.name, each.family_type, each.samples.len())).collect();
    assert_eq!(
        summary,
        [
            ("apt_upgrades_pending", FamilyType::Gauge, 1),
            ("job_seconds", FamilyType::Histogram, 4),
            ("node_reboot_required", FamilyType::Untyped, 1),
            ("rpc_seconds", FamilyType::Summary, 3),
            ("smartmon_device_smart_healthy", FamilyType::Gauge, 2),
        ]
    );
    let job = &families[1];
    assert_eq!(job.help.as_deref(), Some("Duration of \\ and\nof \"b\"."));
    assert_eq!(labels(&job.samples[0]), [("job", "a\\b\"c\nd"), ("le", "0.5")]);
    let rest: Vec<_> = job.samples[1..].iter().map(|each| (each.suffix, &*each.value)).collect();
    assert_eq!(rest, [("_bucket", "3"), ("_sum", "4.5e-1"), ("_count", "3")]);
    assert_eq!(families[3].samples[2].value, "18446744073709551615", "no digit is lost");
    parse_every_prefix(REAL, parse);
    assert_eq!(parse(b""), Ok(vec![]));
}

#[test]
fn accepts_blanks_and_comments() {
    let text = "\n# EOF\n#\n  # TYPE  a  gauge\n\ta { b = \"c\" , } \t 5  \n# HELP a\n# TYPE\n";
    let family = family(text);
    assert_eq!((family.family_type, family.help), (FamilyType::Gauge, None));
    assert_eq!((labels(&family.samples[0]), &*family.samples[0].value), (vec![("b", "c")], "5"));
}

#[test]
fn adds_labels_that_other_samples_have() {
    let family = family("a{c=\"1\"} 1\na{b=\"2\"} 2\na 3\n");
    let all: Vec<_> = family.samples.iter().map(labels).collect();
    assert_eq!(all, [[("b", ""), ("c", "1")], [("b", "2"), ("c", "")], [("b", ""), ("c", "")]]);
}

#[test]
fn rejects_a_text_with_a_timestamp_or_without_last_line_feed() {
    assert_eq!(
        error("a 1\na 1 1395066363000\n"),
        "line 2: expected no timestamp, got \"1395066363000\""
    );
    assert_eq!(error("a 1\na 12"), "expected the end of the last line, found none");
}

#[test]
fn rejects_malformed_lines() {
    for (line, expected) in [
        ("9a 1", "the name of a metric"),
        ("{\"a\"} 1", "the name of a metric"),
        ("a", "a number"),
        ("a 1\r", "a number"),
        ("a one", "a number"),
        ("a 1_000", "a number"),
        ("a 0x1p4", "a number"),
        ("a 1e999", "a number"),
        ("a{b=\"c\"", "a comma or a closing brace"),
        ("a{b=\"c} 1", "a label value in quotes"),
        ("a{b=\"\\x\"} 1", "a label value in quotes"),
        ("a{b} 1", "= after the name"),
        ("a{b:c=\"1\"} 1", "= after the name"),
        ("a{__name__=\"b\"} 1", "the name of a metric"),
        ("a{b=\"1\",b=\"2\"} 1", "labels with different names"),
        ("# TYPE a info", "the type of a metric"),
        ("# TYPE a-b gauge", "a blank after the name"),
        ("# TYPE a gauge\n# TYPE a gauge", "one TYPE line"),
        ("a 1\n# TYPE a gauge", "one TYPE line"),
        ("# HELP a b\n# HELP a b", "one HELP line"),
        ("# TYPE a summary\na{quantile=\"half\"} 1", "a number as quantile"),
    ] {
        let error = error(&format!("{line}\n"));
        assert!(error.contains(&format!("expected {expected}")), "{line}: {error}");
    }
    assert!(parse(b"a{b=\"\xff\"} 1\n").is_err());
}

#[test]
fn ignores_samples_without_quantile_or_le() {
    let text = "# TYPE a summary\na 1\na_sum 2\n# TYPE b histogram\nb 1\nb_bucket 2\nb_count 3\n";
    let families = parse(text.as_bytes()).unwrap();
    let kept: Vec<_> =
        families.iter().map(|each| (each.samples.len(), each.samples[0].suffix)).collect();
    assert_eq!(kept, [(1, "_sum"), (1, "_count")]);
}

#[test]
fn limits_samples_and_labels_without_value() {
    assert_eq!(family(&"a 1\n".repeat(MAX_SAMPLES)).samples.len(), MAX_SAMPLES);
    assert!(error(&"a 1\n".repeat(MAX_SAMPLES + 1)).contains("at most 10000 samples"));
    let with_label = |number: usize| format!("a{{l{number}=\"1\"}} 1\n");
    let of = |count| family(&(0..count).map(with_label).collect::<String>());
    assert_eq!(of(100).samples[0].labels.len(), 100);
    assert_eq!(of(1000).samples[0].labels.len(), 1);
}

#[test]
fn knows_the_numbers_of_go() {
    for number in ["0", "-1", "+5", ".5", "5.", "1e-7", "1E5", "inf", "-Infinity", "+Inf", "NaN"] {
        assert!(line::is_number(number), "{number}");
    }
    for other in ["", "+", "--inf", "+nan", "1e", "0x10", "1,5", "∞"] {
        assert!(!line::is_number(other), "{other}");
    }
}
