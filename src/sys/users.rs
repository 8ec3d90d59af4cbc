//! Users of this machine, as the C library knows them.

use std::ffi::{CStr, CString};
use std::io;

use nix::errno::Errno;
use nix::unistd::{self, Uid, geteuid};

/// A user that a program can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
}

impl User {
    /// A user without an entry in the user database.
    pub fn from_uid(uid: u32) -> Self {
        Self { name: uid.to_string(), uid, gid: uid, groups: vec![uid], home: "/".to_owned() }
    }
}

/// The effective user of this process.
pub fn effective_uid() -> u32 {
    geteuid().as_raw()
}

/// Looks up a user; `None` if there is none of this name.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    if name.contains('\0') {
        return Ok(None);
    }
    convert(unistd::User::from_name(name))
}

/// Looks up a user; `None` if there is none of this number.
pub fn user_by_uid(uid: u32) -> io::Result<Option<User>> {
    convert(unistd::User::from_uid(Uid::from_raw(uid)))
}

fn convert(found: nix::Result<Option<unistd::User>>) -> io::Result<Option<User>> {
    let user = match found {
        Ok(Some(user)) => user,
        // What C libraries return where there is no such user, or no user database at all.
        Ok(None) | Err(Errno::ENOENT | Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(User {
        groups: groups(&CString::new(user.name.as_str())?, user.gid.as_raw()),
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        home: user.dir.to_string_lossy().into_owned(),
    }))
}

/// All groups of a user, or the first 256. nix would fail for more than `NGROUPS_MAX`, which musl defines as 32.
fn groups(name: &CStr, primary: u32) -> Vec<u32> {
    let mut groups = vec![0; 256];
    let mut count = 256;
    // SAFETY: the name is a C string, and there is room for as many groups as `count` says.
    unsafe { libc::getgrouplist(name.as_ptr(), primary, groups.as_mut_ptr(), &raw mut count) };
    groups.truncate(usize::try_from(count).unwrap_or_default().clamp(1, 256));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_up_users_by_name_and_number() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        assert_eq!(root.groups.first(), Some(&0));
        assert_eq!(user_by_uid(0).unwrap().as_ref(), Some(&root));
        assert_eq!(user_by_name("no such user").unwrap(), None);
        assert_eq!(user_by_name("a\0b").unwrap(), None);
        assert_eq!(user_by_uid(4_000_000_000).unwrap(), None);
    }
}
