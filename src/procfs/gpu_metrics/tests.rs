//! Tables are built here after the structures in the kernel's source, because none was captured: no machine has such a GPU.

use super::*;
use crate::procfs::testing::parse_every_prefix;

/// A table in which all values are absent.
pub(crate) fn unfilled(format: u8, content: u8, size: u16) -> Vec<u8> {
    let mut table = vec![0xff; usize::from(size)];
    table[..2].copy_from_slice(&size.to_le_bytes());
    (table[2], table[3]) = (format, content);
    table
}

/// Sets numbers of `N` bytes from `offset` on.
pub(crate) fn put<const N: usize>(table: &mut [u8], offset: usize, values: &[u64]) {
    for (at, value) in values.iter().enumerate() {
        let start = offset + at * N;
        table[start..start + N].copy_from_slice(&value.to_le_bytes()[..N]);
    }
}

fn links(status: Option<u64>) -> [XgmiLink; XGMI_LINKS] {
    let link = |read, written| XgmiLink { status, read_kib: read, written_kib: written };
    let mut links = [link(None, None); XGMI_LINKS];
    links[0] = link(Some(1 << 40), Some(7));
    links[1] = link(Some(2), Some(0));
    links
}

fn instinct() -> GpuMetrics {
    GpuMetrics {
        hotspot_celsius: Some(61),
        memory_celsius: Some(52),
        socket_watts: Some(612),
        gfx_percent: Some(98),
        memory_percent: Some(41),
        energy_units: Some(0x1234_5678_9abc),
        pcie: PcieCounters {
            recoveries: Some(3),
            replays: Some(4),
            replay_rollovers: Some(1),
            naks_sent: Some(5),
            naks_received: Some(6),
        },
        xgmi_width: Some(16),
        xgmi_gigabits_per_second: Some(32),
        xgmi: links(None),
        gfx_clock_mhz: Some(2100),
        memory_clock_mhz: Some(1300),
        ..GpuMetrics::default()
    }
}

fn throttle() -> ThrottleCounters {
    ThrottleCounters {
        cycles: Some(90_000),
        prochot: Some(0),
        power: Some(30_000),
        socket_thermal: Some(20),
        regulator_thermal: Some(10),
        memory_thermal: Some(15),
    }
}

/// What 1.4 to 1.8 have in common: offsets of energy, XGMI width, recoveries, XGMI reads, clocks.
fn instinct_table(content: u8, size: u16, at: [usize; 5]) -> Vec<u8> {
    let [energy, width, recoveries, read, clocks] = at;
    let mut table = unfilled(1, content, size);
    put::<2>(&mut table, 4, &[61, 52, 44, 612, 98, 41]);
    put::<8>(&mut table, energy, &[0x1234_5678_9abc]);
    put::<2>(&mut table, width, &[16, 32]);
    put::<8>(&mut table, recoveries, &[3, 4, 1]);
    put::<8>(&mut table, read, &[1 << 40, 2]);
    put::<8>(&mut table, read + 64, &[7, 0]);
    put::<2>(&mut table, clocks, &[2097, 2100, 132]);
    put::<2>(&mut table, clocks + 40, &[1300]);
    if content > 4 {
        put::<4>(&mut table, recoveries + 24, &[5, 6]);
    }
    table
}

pub(crate) fn table_1_3() -> Vec<u8> {
    let mut table = unfilled(1, 3, 120);
    put::<2>(&mut table, 4, &[48, 61, 52, 40, 41, 42, 98, 41, 0, 220]);
    put::<8>(&mut table, 24, &[5_000_000, 77]);
    put::<2>(&mut table, 54, &[1700, 1000, 1600]);
    put::<8>(&mut table, 112, &[1 << 36]);
    table
}

pub(crate) fn table_1_6() -> Vec<u8> {
    let mut table = instinct_table(6, 1664, [16, 64, 96, 128, 264]);
    put::<4>(&mut table, 32, &[90_000, 0, 30_000, 20, 10, 15]);
    put::<2>(&mut table, 306, &[1]);
    table
}

pub(crate) fn table_1_7(content: u8, size: u16) -> Vec<u8> {
    let mut table = instinct_table(content, size, [24, 72, 104, 136, 296]);
    put::<4>(&mut table, 40, &[90_000, 0, 30_000, 20, 10, 15]);
    put::<2>(&mut table, 264, &[1; 8]);
    put::<2>(&mut table, 338, &[8]);
    table
}

/// Types of attributes.
const U16: u64 = 2;
const S16: u64 = 3;
const U32: u64 = 4;
const U64: u64 = 6;

fn attribute<const N: usize>(kind: u64, id: u64, unit: u64, values: &[u64]) -> Vec<u8> {
    let code = unit << 24 | kind << 20 | id << 10 | values.len() as u64;
    let mut bytes = code.to_le_bytes().to_vec();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()[..N].to_vec()));
    bytes
}

fn list(attributes: &[Vec<u8>]) -> Vec<u8> {
    let body = attributes.concat();
    let size = u16::try_from(8 + body.len()).unwrap();
    let count = u32::try_from(attributes.len()).unwrap();
    [&size.to_le_bytes()[..], &[1, 9], &count.to_le_bytes(), &body].concat()
}

fn table_1_9() -> Vec<u8> {
    let mut read = [u64::MAX; 8];
    (read[0], read[1]) = (1 << 40, 2);
    let mut written = [u64::MAX; 8];
    (written[0], written[1]) = (7, 0);
    list(&[
        attribute::<2>(U16, 0, 2, &[61]),
        attribute::<2>(S16, 1, 2, &[52]),
        attribute::<2>(U16, 49, 2, &[33; 3]), // a later one
        attribute::<2>(U16, 3, 3, &[612]),
        attribute::<2>(U16, 4, 10, &[98]),
        attribute::<2>(U16, 5, 10, &[41]),
        attribute::<8>(U64, 7, 0, &[0x1234_5678_9abc]),
        attribute::<4>(U32, 9, 0, &[90_000]),
        attribute::<4>(U32, 10, 0, &[0]),
        attribute::<8>(U64, 11, 0, &[30_000]),
        attribute::<4>(U32, 12, 0, &[20]),
        attribute::<4>(U32, 13, 0, &[10]),
        attribute::<4>(U32, 14, 0, &[15]),
        attribute::<2>(U16, 18, 0, &[16]),
        attribute::<2>(U16, 19, 6, &[32]),
        attribute::<8>(U64, 24, 0, &[3]),
        attribute::<8>(U64, 25, 0, &[4]),
        attribute::<8>(U64, 26, 0, &[1]),
        attribute::<4>(U32, 27, 0, &[5]),
        attribute::<4>(U32, 28, 0, &[6]),
        attribute::<8>(U64, 29, 9, &read),
        attribute::<8>(U64, 30, 9, &written),
        attribute::<2>(U16, 31, 0, &[1; 8]),
        attribute::<2>(U16, 33, 1, &[2097, 2100, 0xffff]),
        attribute::<2>(U16, 37, 1, &[1300]),
        attribute::<2>(U16, 38, 0, &[8]),
    ])
}

fn all_tables() -> Vec<Vec<u8>> {
    vec![
        table_1_3(),
        instinct_table(4, 288, [24, 52, 80, 104, 240]),
        instinct_table(5, 360, [88, 116, 144, 176, 312]),
        table_1_6(),
        table_1_7(7, 2208),
        table_1_7(8, 3872),
        table_1_9(),
    ]
}

#[test]
fn decodes_revision_1_3_of_mi200_and_radeon() {
    let expected = GpuMetrics {
        revision: 3,
        hotspot_celsius: Some(61),
        memory_celsius: Some(52),
        socket_watts: Some(220),
        gfx_percent: Some(98),
        memory_percent: Some(41),
        energy_units: Some(5_000_000),
        throttle_bits: Some(1 << 36),
        gfx_clock_mhz: Some(1700),
        memory_clock_mhz: Some(1600),
        ..GpuMetrics::default()
    };
    assert_eq!(parse(&table_1_3()), Ok(expected));
}

#[test]
fn decodes_revisions_1_4_to_1_9_of_mi300_and_mi350() {
    let [_, v4, v5, v6, v7, v8, v9] = <[_; 7]>::try_from(all_tables()).unwrap();
    let no_naks = PcieCounters { naks_sent: None, naks_received: None, ..instinct().pcie };
    assert_eq!(parse(&v4), Ok(GpuMetrics { revision: 4, pcie: no_naks, ..instinct() }));
    assert_eq!(parse(&v5), Ok(GpuMetrics { revision: 5, ..instinct() }));
    let with_throttle = GpuMetrics { throttle: throttle(), partitions: Some(1), ..instinct() };
    assert_eq!(parse(&v6), Ok(GpuMetrics { revision: 6, ..with_throttle.clone() }));
    let newest = GpuMetrics { xgmi: links(Some(1)), partitions: Some(8), ..with_throttle };
    for (revision, table) in [(7, v7), (8, v8), (9, v9)] {
        assert_eq!(parse(&table), Ok(GpuMetrics { revision, ..newest.clone() }));
    }
}

#[test]
fn numbers_with_all_bits_set_are_absent() {
    let sizes = [(3, 120), (4, 288), (5, 360), (6, 1664), (7, 2208), (8, 3872)];
    for (content, size) in sizes {
        let empty = GpuMetrics { revision: content, ..GpuMetrics::default() };
        assert_eq!(parse(&unfilled(1, content, size)), Ok(empty), "1.{content}");
    }
    let empty = GpuMetrics { revision: 9, ..GpuMetrics::default() };
    let absent = [attribute::<2>(S16, 0, 2, &[0xffff]), attribute::<8>(U64, 7, 0, &[u64::MAX])];
    assert_eq!(parse(&list(&absent)), Ok(empty));
}

#[test]
fn rejects_tables_cut_at_any_byte() {
    for table in all_tables() {
        assert!(parse(&table).is_ok());
        for end in 0..table.len() {
            assert!(parse(&table[..end]).is_err(), "1.{} at {end}", table[3]);
            let mut own_size = table[..end].to_vec();
            if let Some(size) = own_size.get_mut(..2) {
                size.copy_from_slice(&(end as u16).to_le_bytes());
            }
            assert!(parse(&own_size).is_err(), "1.{} of size {end}", table[3]);
        }
        parse_every_prefix(&table, parse);
    }
}

#[test]
fn rejects_unknown_revisions_and_sizes() {
    let known = [(1, 2, 104), (1, 3, 128), (1, 6, 320), (1, 10, 400), (2, 4, 168), (3, 0, 256)];
    for (format, content, size) in known {
        assert!(parse(&unfilled(format, content, size)).is_err(), "{format}.{content}");
    }
    let error = parse(&unfilled(2, 4, 168)).unwrap_err().to_string();
    assert_eq!(error, r#"line 1: expected a known revision of its size, got "\xa8\x00\x02\x04""#);
}

#[test]
fn rejects_malformed_lists_of_attributes() {
    let unknown_type = attribute::<2>(8, 0, 2, &[61]);
    assert!(parse(&list(&[unknown_type])).is_err());
    let mut endless = list(&[attribute::<2>(U16, 0, 2, &[61])]);
    endless[4..8].copy_from_slice(&[0xff; 4]);
    assert!(parse(&endless).is_err());
    for nothing in [list(&[]), list(&[attribute::<2>(U16, 0, 2, &[])])] {
        let empty = GpuMetrics { revision: 9, ..GpuMetrics::default() };
        assert_eq!(parse(&nothing), Ok(empty));
    }
}
