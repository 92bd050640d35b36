//! Starts that must be refused.

use tokio::net::TcpListener;
use tokio::process::Command;

use super::*;

/// Starts a daemon that must end by itself with this status; its one line.
async fn refused(rig: &Rig, more: &[(&str, &str)], status: i32) -> String {
    let mut environment: BTreeMap<String, String> = rig.environment().into_iter().collect();
    environment.remove("REELQ_LOG");
    let database = rig.database().to_string_lossy().into_owned();
    environment.insert("REELQ_DATABASE".to_owned(), database);
    let config = rig.dir.path().join("config.toml");
    let run = Command::new(env!("CARGO_BIN_EXE_reelq"))
        .args(["run", "--config", &config.to_string_lossy()])
        .env_clear()
        .envs(environment)
        .envs(more.iter().copied())
        .current_dir(rig.dir.path())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(LIMIT, run).await.unwrap().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(status), "{said}");
    assert_eq!(ran.stdout, b"");
    let line = said.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "more than a line:\n{said}");
    line.to_owned()
}

/// The first daemon is not disturbed, and nothing is sent by the second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let mut daemon = rig.start_behind(&[], true);
    until_post(&rig).await;
    let said = refused(&rig, &[], 75).await;
    assert_eq!(
        said,
        format!(
            "reelq: {}: another reelq daemon (process {}) works on this queue; stop it first, \
             or use another --database",
            rig.database().display(),
            daemon.id().as_raw_nonzero()
        )
    );
    assert_eq!(rig.rows().await[0].state, "submitting", "taken for lost");
    assert!(daemon.is_running());
    rig.provider.release("one");
    assert_eq!(daemon.ended().await.code(), Some(0));
    check_all_done(&rig).await;
    // Its lock ended with it.
    rig.run_until_idle().await;
}

/// Places that refuse everybody, and root as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_written_is_named() {
    let rig = Rig::new();
    let file = rig.dir.path().join("config.toml");
    for place in [Path::new("/proc"), Path::new("/sys"), &file] {
        for (setting, variable, name) in [
            ("", "REELQ_DATABASE", "q.db"),
            ("download.dir = ", "REELQ_DOWNLOAD__DIR", "videos"),
        ] {
            let path = place.join(name).display().to_string();
            let said = refused(&rig, &[(variable, &path)], 78).await;
            let named = format!("reelq: {setting}{path}: ");
            assert!(said.starts_with(&named), "{said}");
        }
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let mut rig = Rig::new();
    rig.add(vec![script("one", 3_000)]).await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let said = refused(&rig, &[("REELQ_HTTP__LISTEN", &address)], 69).await;
    assert_eq!(
        said,
        format!(
            "reelq: http.listen = {address}: another program listens there; stop it or choose \
             another address"
        )
    );
    assert_eq!(rig.provider.count(Kind::Post, None), 0);
    drop(other);
    rig.run_until_idle().await;
    check_all_done(&rig).await;
}
