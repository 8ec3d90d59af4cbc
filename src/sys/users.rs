//! Users of this machine, as the C library knows them.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// E.g. `nobody`.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
    /// Its directory.
    pub home: String,
}

impl User {
    /// One that has a number only.
    pub fn nameless(uid: u32) -> Self {
        Self { name: uid.to_string(), uid, gid: uid, groups: vec![uid], home: "/".to_owned() }
    }
}

/// The user this process acts as.
pub fn own_uid() -> u32 {
    // SAFETY: it takes no pointers.
    unsafe { libc::geteuid() }
}

/// The user of that name; `None`: there is none.
pub fn named(name: &str) -> io::Result<Option<User>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    find(|entry, buffer, found| {
        // SAFETY: the name is a C string, the buffer has the length that is told, and both places are valid.
        unsafe {
            libc::getpwnam_r(name.as_ptr(), entry, buffer.as_mut_ptr().cast(), buffer.len(), found)
        }
    })
}

/// The user of that number; `None`: it has no name.
pub fn numbered(uid: u32) -> io::Result<Option<User>> {
    find(|entry, buffer, found| {
        // SAFETY: the buffer has the length that is told, and both places are valid.
        unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    })
}

fn find(
    ask: impl Fn(*mut libc::passwd, &mut [u8], *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<User>> {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    // Long enough for any line that a person wrote.
    let mut buffer = vec![0; 64 << 10];
    match ask(entry.as_mut_ptr(), &mut buffer, &raw mut found) {
        0 if found.is_null() => return Ok(None),
        0 => {}
        // What C libraries say where there is no such user, or no list of users at all.
        libc::ENOENT | libc::ESRCH => return Ok(None),
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    // SAFETY: it was found, so the entry is filled in, and its texts are in the buffer.
    let (entry, name, home) = unsafe {
        let entry = entry.assume_init();
        (entry, CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir))
    };
    Ok(Some(User {
        groups: groups(name, entry.pw_gid),
        name: name.to_string_lossy().into_owned(),
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        home: home.to_string_lossy().into_owned(),
    }))
}

fn groups(name: &CStr, first: u32) -> Vec<u32> {
    let mut groups = vec![0; 256];
    let mut count = 256;
    // SAFETY: the name is a C string, and there is room for as many groups as `count` says.
    unsafe { libc::getgrouplist(name.as_ptr(), first, groups.as_mut_ptr(), &raw mut count) };
    // A user of more groups than that has the first of them.
    groups.truncate(usize::try_from(count).unwrap_or_default().clamp(1, 256));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nobody_else_is() {
        let root = named("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        assert_eq!(root.groups.first(), Some(&0));
        assert_eq!(numbered(0).unwrap().as_ref(), Some(&root));
        assert_eq!(named("no such user").unwrap(), None);
        assert_eq!(named("a\0b").unwrap(), None);
        assert_eq!(numbered(4_000_000_000).unwrap(), None);
    }
}
