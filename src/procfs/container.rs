//! The container and the pod of a process, from the names of its cgroups in `/proc/PID/cgroup`.
//!
//! The names are those of the container runtimes; there is no specification. Real paths of Docker, Podman, CRI-O, and of
//! containerd with both of the kubelet's cgroup drivers:
//!
//! ```text
//! /system.slice/docker-7f0c…64 digits.scope
//! /machine.slice/libpod-7f0c….scope/container
//! /kubepods.slice/kubepods-pod3c1d….slice/crio-7f0c….scope
//! /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3c1d7a52_0e4f_4b8e_9d0a_5f6c7b8a9d0e.slice/cri-containerd-7f0c….scope
//! /kubepods/burstable/pod3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0e/7f0c…
//! ```

/// Identifiers are absent if the process is not in a container or pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits, as in `docker ps --no-trunc` and `crictl ps`.
    pub container_id: Option<String>,
    /// As in the pod's `metadata.uid`; for a static pod its hash of 32 digits.
    pub pod_uid: Option<String>,
}

pub fn parse(text: &[u8]) -> Container {
    let mut found = Container::default();
    for line in text.split(|&byte| byte == b'\n') {
        let path = line.splitn(3, |&byte| byte == b':').nth(2).unwrap_or_default();
        let names = path.split(|&byte| byte == b'/').filter_map(|name| str::from_utf8(name).ok());
        let names: Vec<&str> = names.collect();
        // The outermost pod, and the outermost container in it: a process can create control groups below its own, with any name. All
        // hierarchies of version 1 name the same.
        let pod = names.iter().enumerate().find_map(|(at, name)| Some((at, pod_uid(name)?)));
        let start = pod.as_ref().map_or(0, |(at, _)| *at);
        let container = names.iter().skip(start).find_map(|name| container_id(name));
        found.container_id = found.container_id.or(container.map(str::to_owned));
        found.pod_uid = found.pod_uid.or(pod.map(|(_, uid)| uid));
    }
    found
}

fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit('-').next()?;
    (id.len() == 64 && is_hexadecimal(id)).then_some(id)
}

fn pod_uid(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let last = || name.rsplit('-').next()?.strip_prefix("pod");
    // In names of slices, systemd gives the dash a meaning, so the kubelet replaces those of the UID.
    let uid = name.strip_prefix("pod").or_else(last)?.replace('_', "-");
    let parts: Vec<usize> = uid.split('-').map(str::len).collect();
    let is_uid = parts == [8, 4, 4, 4, 12] || parts == [32];
    (is_uid && uid.split('-').all(is_hexadecimal)).then_some(uid)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7f0c3a5b91d2e8477f0c3a5b91d2e8477f0c3a5b91d2e8477f0c3a5b91d2e847";
    const UID: &str = "3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0e";

    fn found(path: &str) -> (Option<String>, Option<String>) {
        let path = path.replace("UID", UID).replace("ID", ID);
        let found = parse(format!("0::{path}\n").as_bytes());
        (found.container_id, found.pod_uid)
    }

    #[test]
    fn finds_containers_of_each_runtime() {
        for path in [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/system.slice/docker-ID.scope/init.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "/../cri-containerd-ID.scope",
        ] {
            assert_eq!(found(path), (Some(ID.to_owned()), None), "{path}");
        }
    }

    /// A process that may write to cgroupfs has created the last two.
    #[test]
    fn control_groups_of_a_process_are_no_other_pod() {
        let other = UID.replace('3', "4");
        let container = "0".repeat(64);
        for pod in [
            "/kubepods/podUID/ID",
            &format!("/kubepods.slice/kubepods-pod{}.slice/crio-ID.scope", UID.replace('-', "_")),
        ] {
            let own = (Some(ID.to_owned()), Some(UID.to_owned()));
            assert_eq!(found(&format!("{pod}/pod{other}/{container}")), own);
        }
        let own = (Some(ID.to_owned()), None);
        assert_eq!(found(&format!("/docker/ID/{container}")), own);
    }

    #[test]
    fn finds_pods_of_both_cgroup_drivers() {
        let both = (Some(ID.to_owned()), Some(UID.to_owned()));
        let escaped = UID.replace('-', "_");
        for path in [
            "/kubepods/burstable/podUID/ID".to_owned(),
            "/kubepods/podUID/ID".to_owned(),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/cri-containerd-ID.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{escaped}.slice/crio-ID.scope"),
            format!(
                "/docker/{}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{escaped}.slice/cri-containerd-ID.scope",
                "0".repeat(64)
            ),
        ] {
            assert_eq!(found(&path), both, "{path}");
        }
        let static_pod = "/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/ID";
        assert_eq!(found(static_pod).1.as_deref(), Some("0123456789abcdef0123456789abcdef"));
    }

    #[test]
    fn reads_all_hierarchies_of_version_1() {
        let text = format!("12:cpuset:/\n11:memory:/kubepods/pod{UID}/{ID}\n1:name=systemd:/x\n");
        let expected =
            Container { container_id: Some(ID.to_owned()), pod_uid: Some(UID.to_owned()) };
        assert_eq!(parse(text.as_bytes()), expected);
    }

    #[test]
    fn other_cgroups_have_no_container() {
        for path in [
            "/",
            "",
            "/user.slice/user-1000.slice/session-3.scope",
            "/system.slice/podman.service",
            "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
            "/docker/7f0c3a5b91d2",
            "/kubepods/podx-0e4f-4b8e-9d0a-5f6c7b8a9d0e",
            "/kubepods/pod3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0g",
        ] {
            assert_eq!(found(path), (None, None), "{path}");
        }
        let bad = [&b""[..], b"0::", b"rubbish", b"0::/\xff\xfe\n", &[b'9'; 400]];
        assert!(bad.into_iter().all(|bad| parse(bad) == Container::default()));
    }
}
