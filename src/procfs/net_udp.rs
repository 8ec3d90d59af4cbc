//! `/proc/net/udp` and `/proc/net/udp6`: UDP sockets.
//!
//! Format: a line of names, then a line for each socket. Its fifth column has the bytes in both queues, hexadecimal. Two real lines:
//!
//! ```text
//!   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
//!  2372: 0100007F:0143 00000000:0000 07 00000000:00000015 00:00000000 00000000     0        0 19131 2 0000000091186ef9 0
//! ```

use crate::procfs::{ParseError, fields};

/// Sums over all sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UdpQueues {
    pub transmit_bytes: u64,
    /// Received, but not read by the process yet.
    pub receive_bytes: u64,
}

impl UdpQueues {
    /// Adds the socket of a line. `at`: its number, from 1.
    pub fn add_line(&mut self, at: usize, line: &[u8]) -> Result<(), ParseError> {
        if at == 1 || line.trim_ascii().is_empty() {
            return Ok(());
        }
        let error = || ParseError::new(at, "the bytes in two queues", line);
        let queues = fields(line).nth(4).and_then(|field| std::str::from_utf8(field).ok());
        let (transmit, receive) = queues.and_then(|text| text.split_once(':')).ok_or_else(error)?;
        let bytes = |text: &str| u32::from_str_radix(text, 16).map_err(|_| error());
        self.transmit_bytes = self.transmit_bytes.saturating_add(bytes(transmit)?.into());
        self.receive_bytes = self.receive_bytes.saturating_add(bytes(receive)?.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::lines;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops            \n\
 2372: 0100007F:0143 00000000:0000 07 00000003:00000015 00:00000000 00000000     0        0 19131 2 0000000091186ef9 0        \n\
 8204: 00000000:1F90 00000000:0000 07 00000000:00034000 00:00000000 00000000   997        0 24519 2 000000004c1d5b8e 12        \n";

    fn parse(text: &[u8]) -> Result<UdpQueues, ParseError> {
        let mut queues = UdpQueues::default();
        lines(text).try_for_each(|(at, line)| queues.add_line(at, line))?;
        Ok(queues)
    }

    #[test]
    fn sums_the_sockets_of_a_real_sample() {
        let queues = parse(REAL).unwrap();
        assert_eq!((queues.transmit_bytes, queues.receive_bytes), (3, 0x34015));
    }

    #[test]
    fn without_sockets_queues_are_empty() {
        assert_eq!(parse(b"  sl  local_address\n"), Ok(UdpQueues::default()));
        assert_eq!(parse(b""), Ok(UdpQueues::default()));
    }

    #[test]
    fn rejects_malformed_text() {
        for queues in ["", "15", "15:many", "100000000:0", "0:100000000"] {
            let line = format!("1: 0100007F:0143 00000000:0000 07 {queues}");
            assert!(UdpQueues::default().add_line(2, line.as_bytes()).is_err(), "{line}");
        }
        parse_every_prefix(REAL, parse);
    }
}
