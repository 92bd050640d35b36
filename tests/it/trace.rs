//! What the kernel saw: a log of `strace -f -xx`, read back.

use std::collections::HashMap;

use rustix::process::Pid;

/// A system call. Two calls overlap if neither ended before the other began.
#[derive(Clone, Debug)]
pub struct Call {
    pub thread: u32,
    pub name: String,
    /// The arguments as strace writes them, strings in hex.
    args: String,
    /// `None`: it never came back.
    pub result: Option<i64>,
    /// The line of the log in which it began, and that in which it ended.
    pub begin: usize,
    pub end: usize,
}

/// The flags that make a log which [`read`] understands.
pub const FLAGS: [&str; 5] = ["-f", "-qq", "-xx", "-s", "1000000"];

/// Who traces a process.
pub fn tracer(process: Pid) -> Option<Pid> {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("TracerPid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

/// Every call of a log, in the order in which they began.
pub fn read(log: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<u32, usize> = HashMap::new();
    for (line_number, line) in log.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Ok(thread) = thread.parse::<u32>() else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(index) = open.remove(&thread) else {
                continue;
            };
            let tail = resumed.split_once(" resumed>").map_or("", |(_, tail)| tail);
            let (args, result) = split_result(tail);
            let call = &mut calls[index];
            call.args.push_str(args);
            call.result = result;
            call.end = line_number;
            continue;
        }
        let Some((name, tail)) = rest.split_once('(') else {
            continue;
        };
        // `???`: the thread ended before strace could see what it was about to call.
        if name.contains(' ') || name.starts_with(['+', '-', '?']) {
            continue;
        }
        let mut call = Call {
            thread,
            name: name.to_owned(),
            args: String::new(),
            result: None,
            begin: line_number,
            end: usize::MAX,
        };
        // The second stands where the program ends in the midst of a call.
        let unfinished = tail
            .split_once(" <unfinished ...>")
            .or(tail.split_once(" <detached ...>"));
        match unfinished {
            Some((args, _)) => {
                call.args = args.to_owned();
                open.insert(thread, calls.len());
            }
            None => {
                let (args, result) = split_result(tail);
                call.args = args.to_owned();
                call.result = result;
                call.end = line_number;
            }
        }
        calls.push(call);
    }
    calls
}

/// `args) = 17 words`.
fn split_result(tail: &str) -> (&str, Option<i64>) {
    let Some((args, result)) = tail.rsplit_once(" = ") else {
        return (tail, None);
    };
    let args = args.trim_end();
    let number = result.split(' ').next().unwrap_or("");
    (args.strip_suffix(')').unwrap_or(args), number.parse().ok())
}

impl Call {
    pub fn succeeded(&self) -> bool {
        self.result.is_some_and(|result| result >= 0)
    }

    /// The strings among the arguments, decoded, one after the other.
    pub fn strings(&self) -> Vec<Vec<u8>> {
        let mut strings = Vec::new();
        let mut parts = self.args.split('"');
        while let (Some(_), Some(hex)) = (parts.next(), parts.next()) {
            strings.push(
                hex.split("\\x")
                    .skip(1)
                    .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
                    .collect(),
            );
        }
        strings
    }

    /// The bytes of a write, of however many parts.
    pub fn data(&self) -> Vec<u8> {
        self.strings().concat()
    }

    /// The string arguments as paths.
    pub fn paths(&self) -> Vec<String> {
        self.strings()
            .into_iter()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    /// An argument that is a number.
    pub fn number(&self, index: usize) -> i64 {
        let words = self.words();
        let number = words.get(index).and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| {
            panic!(
                "{}: no number at {index} in ...{}",
                self.name,
                &self.args[self.args.len().saturating_sub(80)..]
            )
        })
    }

    /// The first argument, where it is a descriptor.
    pub fn descriptor(&self) -> i64 {
        let words = self.words();
        words[0].parse().unwrap_or(-1)
    }

    /// Whether a flag stands among the arguments.
    pub fn has(&self, flag: &str) -> bool {
        self.words()
            .iter()
            .any(|word| word.split('|').any(|part| part == flag))
    }

    /// The arguments; strings are left as they are, and a list counts as one.
    fn words(&self) -> Vec<&str> {
        let mut words = Vec::new();
        let (mut depth, mut quoted, mut start) = (0, false, 0);
        for (at, c) in self.args.char_indices() {
            match c {
                '"' => quoted = !quoted,
                '[' | '{' if !quoted => depth += 1,
                ']' | '}' if !quoted => depth -= 1,
                ',' if !quoted && depth == 0 => {
                    words.push(self.args[start..at].trim());
                    start = at + 1;
                }
                _ => {}
            }
        }
        words.push(self.args[start..].trim());
        words
    }
}

/// Which file each call is about, if it is about one.
pub fn files(calls: &[Call]) -> Vec<Option<String>> {
    // A descriptor is taken when its call returns, and free when its close begins.
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|index| match calls[*index].name.as_str() {
        "openat" => calls[*index].end,
        _ => calls[*index].begin,
    });
    let mut open: HashMap<i64, String> = HashMap::new();
    let mut files = vec![None; calls.len()];
    for index in order {
        let call = &calls[index];
        files[index] = match call.name.as_str() {
            "openat" => {
                let path = call.paths().into_iter().next();
                if let (Some(path), true) = (&path, call.succeeded()) {
                    open.insert(call.result.unwrap_or(-1), path.clone());
                }
                path
            }
            "close" => open.remove(&call.descriptor()),
            "unlink" | "unlinkat" | "mkdir" | "mkdirat" | "rename" | "renameat" | "renameat2" => {
                call.paths().into_iter().next()
            }
            _ => open.get(&call.descriptor()).cloned(),
        };
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_back() {
        let log = r#"7 openat(AT_FDCWD, "\x2f\x61", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 9
7 pwrite64(9, "\x68\x2c\x69", 3, 4096 <unfinished ...>
8 writev(15, [{iov_base="\x61\x62", iov_len=2}, {iov_base="\x63", iov_len=1}], 2) = 3
7 <... pwrite64 resumed>) = 3
8 fsync(9) = -1 EIO (Input/output error) (INJECTED)
8 ???( <unfinished ...>
8 +++ killed by SIGKILL +++
7 unlink("\x2f\x61" <unfinished ...>
"#;
        let calls = read(log);
        assert_eq!(calls.len(), 5);
        assert_eq!(calls[0].paths(), ["/a"]);
        assert!(calls[0].has("O_CREAT") && !calls[0].has("O_EXCL"));
        assert_eq!(calls[1].data(), b"h,i");
        assert_eq!(calls[1].number(3), 4096);
        assert_eq!((calls[1].begin, calls[1].end), (1, 3));
        assert_eq!(calls[2].data(), b"abc");
        assert!(!calls[3].succeeded());
        assert_eq!((calls[4].result, calls[4].end), (None, usize::MAX));
        let files = files(&calls);
        assert_eq!(files[1].as_deref(), Some("/a"));
        assert_eq!(files[2], None);
    }
}
