//! A disk that stops responding: an ext4 filesystem on a loop device, frozen by fsfreeze(8). Needs root.

use std::process::Command;

use super::TempDir;

pub struct HungDisk {
    image: TempDir,
    pub directory: TempDir,
}

impl HungDisk {
    /// `None` where there is no loop device, as in most containers.
    pub fn new() -> Option<Self> {
        let free = Command::new("losetup").arg("--find").output().unwrap();
        if !free.status.success() {
            println!("skipped: {}", String::from_utf8_lossy(&free.stderr));
            return None;
        }
        let disk = Self { image: TempDir::new("image"), directory: TempDir::new("hung") };
        let image = disk.image.0.join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk.directory.0));
        Some(disk)
    }

    /// Hangs until the result is dropped. That must be before an agent that uses the disk is waited for.
    pub fn freeze(&self) -> Frozen<'_> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.directory.0));
        Frozen(self)
    }
}

pub struct Frozen<'a>(&'a HungDisk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0.directory.0));
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        // Lazily, because an agent that a failed test leaves behind still uses it.
        run(Command::new("umount").arg("--lazy").arg(&self.directory.0));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
