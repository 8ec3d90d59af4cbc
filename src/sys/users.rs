//! Users of this machine, as the C library knows them.

use std::ffi::{CStr, CString};
use std::io;

use nix::errno::Errno;
use nix::unistd::{self, Uid, geteuid};

use crate::sys::children::Credentials;

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

/// Becomes a user, with all of that user's groups and no capabilities, unless that is root.
pub fn become_user(user: &User) -> io::Result<()> {
    Credentials::of(user).assume()
}

fn convert(found: nix::Result<Option<unistd::User>>) -> io::Result<Option<User>> {
    let user = match found {
        Ok(Some(user)) => user,
        // What C libraries return where there is no such user, or no user database at all.
        Ok(None) | Err(Errno::ENOENT | Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(User {
        groups: groups(&CString::new(user.name.as_str())?, user.gid.as_raw())?,
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        home: user.dir.to_string_lossy().into_owned(),
    }))
}

/// The kernel's limit of a process's groups, `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65_536;

/// All groups of a user, or an error: with a part of them a program could pass a check that denies access to a group. nix would
/// fail for more than `NGROUPS_MAX`, which musl defines as 32.
fn groups(name: &CStr, primary: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; 256];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        Errno::clear();
        // SAFETY: the name is a C string, and there is room for as many groups as `count` says.
        let result = unsafe {
            libc::getgrouplist(name.as_ptr(), primary, groups.as_mut_ptr(), &raw mut count)
        };
        let count = usize::try_from(count).unwrap_or_default();
        match result {
            // Otherwise the list has zeroes, the group of root, in place of groups.
            0.. if (1..=groups.len()).contains(&count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            ..0 if (groups.len() + 1..=MAX_GROUPS).contains(&count) => groups.resize(count, 0),
            _ => return groups_from_file(name, primary, Errno::last()),
        }
    }
}

/// The C library could not read the groups, because of `error`. musl asks nscd(8) first, and reads the file only if that is not
/// running: one that fails must not keep commands from running. glibc has other databases than the file, so there it fails.
fn groups_from_file(name: &CStr, primary: u32, error: Errno) -> io::Result<Vec<u32>> {
    let why = match error {
        Errno::UnknownErrno => io::Error::other("the group database cannot be read"),
        error => io::Error::from(error),
    };
    if !cfg!(target_env = "musl") {
        return Err(why);
    }
    match std::fs::read("/etc/group") {
        Ok(database) => Ok(parse_groups(&database, name.to_bytes(), primary)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![primary]),
        Err(_) => Err(why),
    }
}

/// The groups of a user in the format of group(5): `video:x:44:alice,bob`.
fn parse_groups(database: &[u8], user: &[u8], primary: u32) -> Vec<u32> {
    let mut groups = vec![primary];
    for line in database.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [_, _, number, members] = fields[..] else { continue };
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        if let Some(number) = number
            && members.split(|byte| *byte == b',').any(|member| member == user)
            && !groups.contains(&number)
        {
            groups.push(number);
        }
    }
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

    #[test]
    fn group_file_gives_primary_group_and_memberships() {
        let database = b"root:x:0:\nvideo:x:44:alice,bob\nrender:x:105:bob\nbobs:x:50:bobby\n\
            +nis\nbroken:x:y:bob\nempty:x:7:\nvideo2:x:44:bob\n";
        assert_eq!(parse_groups(database, b"bob", 1000), [1000, 44, 105]);
        assert_eq!(parse_groups(database, b"alice", 44), [44]);
        assert_eq!(parse_groups(b"", b"bob", 5), [5]);
    }
}
