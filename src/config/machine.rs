//! Memory and number of the machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the bytes of memory that this process may take: the machine's, or those that its control
/// group leaves.
///
/// `None` where neither can be found out.
pub(super) fn memory() -> Option<u64> {
    let of_machine = fs::read_to_string("/proc/meminfo").ok();
    let of_machine = of_machine.and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_group = group_limit(Path::new("/sys/fs/cgroup"), &groups);
    of_machine.into_iter().chain(of_group).min()
}

/// Returns the number at the end of the host name, as pods of a StatefulSet have it.
///
/// # Errors
/// When there is none, or it is above 255.
pub(super) fn ordinal() -> Result<u8, String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map_err(|error| format!("the host name cannot be read: {error}"))?;
    ordinal_of(name.trim_end())
}

fn ordinal_of(name: &str) -> Result<u8, String> {
    let digits = name.rsplit(|c: char| !c.is_ascii_digit()).next();
    match digits.unwrap_or_default() {
        "" => Err(format!("the host name `{name}` does not end with a number")),
        digits => digits.parse().map_err(|_| {
            format!("the number at the end of the host name `{name}` must be 0 to 255")
        }),
    }
}

/// Returns the total in the text of `/proc/meminfo`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line?.trim().strip_suffix(" kB")?;
    kibibytes.parse::<u64>().ok().map(|size| size * 1024)
}

/// Returns the lowest limit of the groups in the text of `/proc/self/cgroup` and of their parents.
///
/// In a container, the path of a group may be known only to the machine. Then the limit of the
/// container's own group, which is the root, counts.
fn group_limit(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (root, file) = match fields.next()? {
            "" => (root.to_owned(), "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let path = fields.next()?.trim_start_matches('/');
        let group = root.join(path);
        let upwards = group.ancestors().take_while(|path| path.starts_with(&root));
        let files: Vec<PathBuf> = upwards.map(|path| path.join(file)).collect();
        // A group without a limit has `max`, or a number as large as all memory there is.
        let limit = |file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        files.iter().filter_map(limit).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_ends_the_host_name() {
        for (name, ordinal) in [("stablegate-0", 0), ("gate017", 17), ("10.0.0.255", 255)] {
            assert_eq!(ordinal_of(name), Ok(ordinal));
        }
        for name in ["", "gate", "7-gate", "gate-256"] {
            let error = ordinal_of(name).unwrap_err();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn the_lowest_limit_counts() {
        let total = total("MemTotal:       24682748 kB\nMemFree:        1 kB\n");
        assert_eq!(total, Some(24_682_748 * 1024));
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limit = |groups| group_limit(root.path(), groups);
        assert_eq!(limit("0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        assert_eq!(limit("0::/a/b\n"), None);
        write("a/memory.max", "4096000\n");
        assert_eq!(limit("0::/a/b\n"), Some(4_096_000));
        write("memory.max", "8192000\n");
        assert_eq!(limit("0::/a/b\n"), Some(4_096_000));
        assert_eq!(limit("0::/not/here\n"), Some(8_192_000));
        // Version 1 of control groups.
        let groups = "5:cpu,cpuacct:/x\n4:memory:/x\n1:name=systemd:/x\n";
        assert_eq!(limit(groups), None);
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/x/memory.limit_in_bytes", "1024000\n");
        assert_eq!(limit(groups), Some(1_024_000));
        assert_eq!(
            limit("4:memory:/elsewhere\n"),
            Some(9_223_372_036_854_771_712)
        );
    }
}
