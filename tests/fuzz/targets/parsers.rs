//! Runs the parser selected by the first byte. No parser may panic, and results must satisfy their invariants.
#![no_main]

use hm_agent::collector::kmsg::patterns::Classifier;
use hm_agent::collector::node::systemd::message::{Message, PREFIX_BYTES};
use hm_agent::collector::node::systemd::units;
use hm_agent::procfs::*;
use hm_agent::remote::collect::{df, ip_address, nvidia_smi};
use hm_agent::util::shell_words;
use hm_agent::util::text::{EXCERPT_CHARS, escape_for_log, parse_decimal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, text)) = data.split_first() else { return };
    match which {
        b'a' => drop(amdgpu_ids::parse_name(text, 0x744c, 0xc8)),
        b'b' => drop(cpuinfo::parse_model(text)),
        b'c' => drop(df::parse(text)),
        b'd' => {
            let disks = diskstats::parse(text).unwrap_or_default();
            assert!(diskstats::whole_disks(&disks).count() <= disks.len());
        }
        b'e' => drop(file_nr::parse(text)),
        b'f' => drop(ip_address::parse(text)),
        b'g' => drop(link_speed::parse_generation(text)),
        b'h' => {
            if let Ok(load) = loadavg::parse(text) {
                assert!([load.one, load.five, load.fifteen].iter().all(|load| load.is_finite()));
            }
        }
        b'i' => {
            if let Ok(info) = meminfo::parse(text) {
                for watermark in [None, Some(0), Some(4 << 20), Some(u64::MAX)] {
                    info.available_bytes(watermark);
                }
            }
        }
        b'j' => drop(mountinfo::parse(text)),
        b'k' => drop(net_dev::parse(text)),
        b'l' => {
            // JSON serialization is lossless.
            let gpus = nvidia_smi::parse(text);
            let json = serde_json::to_string(&gpus).unwrap();
            assert_eq!(serde_json::from_str::<Vec<_>>(&json).ok().as_ref(), Some(&gpus));
        }
        b'm' => drop(os_release::parse(text).display_name()),
        b'n' => drop(pid_stat::parse(text)),
        b'o' => {
            if let Ok(pressure) = pressure::parse(text) {
                assert!(pressure.some.avg10_percent.is_finite());
            }
            drop(pressure::parse_irq(text));
        }
        b'p' => drop(processes::parse(text)),
        b'q' => {
            for one in processors::parse(text) {
                let again = processors::parse(&one.as_lines());
                assert!(again.len() <= 1, "one processor became several");
                one.text("model name");
                one.number("physical id");
                one.fraction("cpu MHz");
                one.flag("fpu");
            }
            processors::parse_topology(text);
        }
        b'r' => drop(ras_err_count::parse(text)),
        b's' => drop(snmp::parse(text)),
        b't' => drop(stat::parse(text)),
        b'u' => {
            assert!(uptime::parse(text).is_ok_and(f64::is_finite) || uptime::parse(text).is_err())
        }
        b'v' => drop(vmstat::parse(text)),
        b'w' => drop(zoneinfo::parse_low_watermark_pages(text)),
        b'x' => {
            let line = String::from_utf8_lossy(text);
            if let Ok(split) = shell_words::split(&line) {
                assert!(!split.is_empty());
                // Each word, quoted, is parsed as the same word again.
                let quoted: Vec<String> =
                    split.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
                assert_eq!(shell_words::split(&quoted.join(" ")).as_ref(), Ok(&split));
            }
        }
        b'y' => {
            let parsed = str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
            let signed = text.first().is_some_and(|byte| !byte.is_ascii_digit());
            assert_eq!(parse_decimal(text), parsed.filter(|_| !signed));
        }
        b'z' => {
            let escaped = escape_for_log(text, EXCERPT_CHARS);
            assert!(escaped.len() <= "\\u{10ffff}".len() * EXCERPT_CHARS + '…'.len_utf8());
            assert!(escaped.chars().all(|letter| !letter.is_control()));
        }
        b'0' => {
            let (header, line) = text.split_at(text.len() / 2);
            if let Ok(Some(found)) = interrupts::parse_line(1, line, interrupts::cpu_columns(header)) {
                assert!(found.devices.is_empty() || found.is_numbered());
            }
        }
        b'1' => drop(schedstat::parse_line(1, text)),
        b'E' => drop(btrfs_error_stats::parse(text)),
        b'C' => drop(cpu_list::parse(text)),
        b'D' => {
            let _ = (netstat::parse(text), sockstat::parse(text), softnet_stat::parse(text));
            let _ = (snmp6::parse(text), nfs::parse(text), nf_conntrack::parse(text));
            let _ = (infiniband::parse_state(text), infiniband::parse_rate(text));
            let _ = (infiniband::parse_counter(text), arp::parse_device(1, text));
        }
        b'M' => drop(mdstat::parse(text)),
        b'A' => {
            for family in prometheus_text::parse(text).unwrap_or_default() {
                for sample in &family.samples {
                    assert!(sample.labels.is_sorted_by(|(a, _), (b, _)| a < b), "{sample:?}");
                }
            }
        }
        b'B' => {
            // A reply of systemd whose length is right, because the input would rarely get past that.
            let mut message = text.to_vec();
            let Some(prefix) = message.first_chunk_mut::<PREFIX_BYTES>() else { return };
            prefix[4..8].fill(0);
            let Ok(header) = Message::length(prefix) else { return };
            let Some(body) = text.len().checked_sub(header) else { return };
            prefix[4..8].copy_from_slice(&(body as u32).to_le_bytes());
            if let Ok(body) = Message::decode(&message).and_then(|it| it.body(units::SIGNATURE)) {
                drop(units::parse(body));
            }
        }
        b'K' => {
            let mut classifier = Classifier::default();
            for line in text.split(|&byte| byte == b'\n') {
                drop(kmsg::parse_syslog_line(line));
                let Ok(record) = kmsg::parse_record(line) else { continue };
                let text = String::from_utf8_lossy(record.line.text);
                if let Some(event) = classifier.classify(&text, record.line.microseconds) {
                    assert!(!event.class.is_empty() && event.subject.len() <= text.len() + 16);
                }
            }
        }
        b'H' => drop(gpu_metrics::parse(text)),
        b'I' => drop(bad_pages::parse(text)),
        b'J' => drop(kfd_node::parse_pci_slot(text)),
        b'L' => {
            let found = container::parse(text);
            assert!(found.container_id.is_none_or(|id| id.len() == 64));
            assert!(found.pod_uid.is_none_or(|uid| [32, 36].contains(&uid.len())));
        }
        b'N' => drop(passwd::parse_name(text, 1000)),
        b'O' => drop(pid_status::parse_uid(text)),
        b'G' => {
            let mut search = pci_ids::NameSearch::new(0x8086, 0x56c0);
            text.split(|&byte| byte == b'\n').for_each(|line| search.on_line(line));
        }
        _ => {}
    }
});
