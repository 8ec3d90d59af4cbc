//! Names that the kernel bounds, kept in place: there are dozens in each sample.

use std::fmt;
use std::ops::Deref;

/// The longest name of a disk has 31 bytes (`DISK_NAME_LEN`), a partition's a `p` and its number more, and an interface's
/// 15 (`IFNAMSIZ`).
const LONGEST: usize = 39;

/// The name of a device: any bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    length: u8,
    bytes: [u8; LONGEST],
}

impl Name {
    /// `None`: the kernel has none that long.
    pub fn new(name: &[u8]) -> Option<Self> {
        let length = u8::try_from(name.len()).ok()?;
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Self { length, bytes })
    }
}

impl Default for Name {
    fn default() -> Self {
        Self { length: 0, bytes: [0; LONGEST] }
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::quote(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_it_was_made_of_and_not_longer_than_the_kernels() {
        for name in [&b""[..], b"sda", b"a\0b", &[b'x'; LONGEST]] {
            assert_eq!(&*Name::new(name).unwrap(), name);
        }
        assert_eq!(Name::new(&[b'x'; LONGEST + 1]), None);
        assert_ne!(Name::new(b"a"), Name::new(b"a\0"));
    }
}
