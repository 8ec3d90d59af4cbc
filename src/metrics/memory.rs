//! Every line of `/proc/meminfo`, and of `/proc/vmstat` those that node_exporter tells.

use crate::metrics::encoder::Text;
use crate::metrics::host;
use crate::model::RawSample;

pub(super) fn write(text: &mut Text, reading: &RawSample) {
    let lines = reading.meminfo.as_ref().map_or(&[][..], |info| &info.lines);
    for line in lines {
        let Some(name) = series(&line.name, line.is_bytes) else { continue };
        text.gauge(&name, "A line of /proc/meminfo, sizes in bytes.").sample("", line.value);
    }
    host::vmstat(text, reading);
}

/// `Active(anon)` is `node_memory_Active_anon_bytes`. `None`: no name can be made of it.
fn series(line: &str, is_bytes: bool) -> Option<String> {
    let mut name = String::with_capacity(48);
    name.push_str("node_memory_");
    for letter in line.chars() {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => name.push(letter),
            '(' => name.push('_'),
            ')' => {}
            _ => return None,
        }
    }
    if is_bytes {
        name.push_str("_bytes");
    }
    (!line.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_node_exporters() {
        let name = |line, is_bytes| series(line, is_bytes).unwrap_or_default();
        assert_eq!(name("Active(anon)", true), "node_memory_Active_anon_bytes");
        assert_eq!(name("HugePages_Total", false), "node_memory_HugePages_Total");
        assert_eq!(name("DirectMap1G", true), "node_memory_DirectMap1G_bytes");
        assert_eq!((name("a b", true), name("", true)), (String::new(), String::new()));
    }
}
