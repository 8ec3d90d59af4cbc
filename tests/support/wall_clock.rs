//! Sets the wall clock of one process, also of a static one. Such a process reads the time through the vDSO (vdso(7)), code that
//! the kernel maps into each process. Linux lets a debugger write there, which gives the process its own copy of the page. Its
//! child processes use the machine's clock.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use super::wait_until;

/// `clock_gettime` as a system call that adds the number at [`SECONDS`] to the seconds of CLOCK_REALTIME (0).
#[rustfmt::skip]
const CODE: [u8; 30] = [
    0x0f, 0x1f, 0x00, // nop
    0xb8, 0xe4, 0, 0, 0, // mov eax, SYS_clock_gettime
    0x0f, 0x05, // syscall
    0x85, 0xff, // test edi, edi
    0x75, 0x0d, // jne to the end
    0x48, 0xba, 0, 0, 0, 0, 0, 0, 0, 0, // mov rdx, 0
    0x48, 0x01, 0x16, // add [rsi], rdx
    0xc3, // ret
    0x90, 0x90,
];
/// Aligned to eight bytes, so that a write is atomic.
const SECONDS: u64 = 16;

pub struct WallClock {
    /// `/proc/PID/mem`.
    memory: File,
    /// Address of `__vdso_clock_gettime`.
    address: u64,
}

impl WallClock {
    /// Takes over the clock of a process, with an offset of 0. `None` on architectures other than x86-64.
    pub fn of(pid: u32) -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        let maps = fs::read_to_string(format!("/proc/{}/maps", pid)).unwrap();
        let range = maps.lines().find(|line| line.ends_with("[vdso]"))?.split(' ').next()?;
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let path = format!("/proc/{}/mem", pid);
        let memory = File::options().read(true).write(true).open(path).unwrap();
        let mut image = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut image, start).unwrap();
        let (offset, size) = symbol(&image, b"__vdso_clock_gettime")?;
        assert!(size >= CODE.len() as u64 && (start + offset + SECONDS).is_multiple_of(8));
        let clock = Self { memory, address: start + offset };
        clock.install(pid, start..end);
        Some(clock)
    }

    /// Writes [`CODE`] while the process is stopped with no thread inside the vDSO.
    fn install(&self, pid: u32, vdso: std::ops::Range<u64>) {
        loop {
            signal(pid, "-STOP");
            wait_until("the stop", || is_stopped(pid).then_some(()));
            let is_free = program_counters(pid).iter().all(|counter| !vdso.contains(counter));
            if is_free {
                self.memory.write_all_at(&CODE, self.address).unwrap();
            }
            signal(pid, "-CONT");
            if is_free {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(3));
        }
    }

    /// Sets the offset from the real time.
    pub fn wrong_by(&self, seconds: i64) {
        self.memory.write_all_at(&seconds.to_le_bytes(), self.address + SECONDS).unwrap();
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
}

/// Program counters of the threads of a stopped process.
fn program_counters(pid: u32) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let counter = |thread: fs::DirEntry| {
        // Empty if the thread has just ended.
        let text = fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        let hex = text.trim().rsplit("0x").next()?;
        u64::from_str_radix(hex, 16).ok()
    };
    threads.filter_map(counter).collect()
}

/// Address and size of a function in a shared object (elf(5)).
fn symbol(image: &[u8], name: &[u8]) -> Option<(u64, u64)> {
    let number = |at: u64, length: usize| {
        let bytes = &image[at as usize..at as usize + length];
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    const DYNSYM: u64 = 11;
    let (sections, size, count) = (number(40, 8), number(58, 2), number(60, 2));
    let header = |index: u64| sections + index * size;
    let symbols = (0..count).map(header).find(|at| number(at + 4, 4) == DYNSYM)?;
    let names = number(header(number(symbols + 40, 4)) + 24, 8);
    let (start, length) = (number(symbols + 24, 8), number(symbols + 32, 8));
    let mut all = (start..start + length).step_by(24);
    let found = all.find(|at| {
        let rest = &image[(names + number(*at, 4)) as usize..];
        rest.starts_with(name) && rest[name.len()] == 0
    })?;
    Some((number(found + 8, 8), number(found + 16, 8)))
}
