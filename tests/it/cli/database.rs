//! The database that a command finds: none, another program's, one that cannot be written.

use super::*;

#[test]
fn what_is_no_queue_is_left_alone() {
    let shell = Shell::new();
    shell
        .run(&["list"])
        .ends(78)
        .says("there is no queue here yet; `reelq add` makes one");
    assert!(!shell.path("reelq.db").exists());
    shell
        .run(&[
            "add",
            "--prompt",
            "p",
            "--image-url",
            "https://e.com",
            "--database",
            "a/b.db",
        ])
        .ends(78)
        .says("does not exist; make it first");

    for notes in [
        "these are my notes, and no database at all",
        "\n",
        "no",
        "SQLite format 3",
        &"\0".repeat(512),
        &"\0".repeat(65_536),
    ] {
        shell.file("reelq.db", notes);
        shell
            .run_with(LINE, &["add", "-"])
            .ends(78)
            .says("this is not an SQLite database");
        let left = std::fs::read_to_string(shell.path("reelq.db")).unwrap();
        assert_eq!(left, notes);
    }
    shell.file("reelq.db", "");
    shell.run_with(LINE, &["add", "-"]).ok();

    // Another program's database.
    let other = shell.path("other.db");
    let shell = Shell::new();
    shell.add(1, "b");
    std::fs::copy(shell.path("reelq.db"), &other).unwrap();
    let mut bytes = std::fs::read(&other).unwrap();
    bytes[68..72].copy_from_slice(b"othr");
    std::fs::write(&other, &bytes).unwrap();
    shell
        .run(&["status", "--database", &other.display().to_string()])
        .ends(78)
        .says("belongs to another program");
    assert_eq!(std::fs::read(&other).unwrap(), bytes);
}

/// Root's right to write whatever a mode says is taken away: `command` runs as anybody.
fn bound_by_modes(command: &Command) -> Command {
    let mut bound = match rustix::process::geteuid().is_root() {
        true => {
            let mut bound = Command::new("setpriv");
            bound.args(["--bounding-set", "-dac_override,-dac_read_search"]);
            bound.arg(command.get_program());
            bound
        }
        false => Command::new(command.get_program()),
    };
    bound.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound.current_dir(command.get_current_dir().unwrap());
    bound.stdin(Stdio::null());
    bound
}

#[test]
#[ignore = "needs setpriv where it runs as root: .ci/run installs it"]
fn a_database_that_cannot_be_written_is_told_before_it_matters() {
    let shell = Shell::new();
    shell.add(1, "b");
    let bytes = std::fs::read(shell.path("reelq.db")).unwrap();
    let set_mode = |name: &str, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(shell.path(name), mode).unwrap();
    };
    let run = |args: &[&str]| {
        let mut command = shell.command(args);
        command.env("REELQ_PROVIDER__API_KEY", "sk-test");
        command.env("REELQ_PROVIDER__BASE_URL", "http://127.0.0.1:9");
        Ran::of(bound_by_modes(&command))
    };
    let words = "reelq.db: the database cannot be written; check the owner and mode of the file, \
        of its -wal and -shm, and of its folder";
    set_mode("reelq.db", 0o444);
    run(&["run", "--until-idle"]).ends(78).says(words);
    run(&["check"]).ends(78).prints(words);
    run(&["pause"]).ends(78).says(words);
    run(&["list"]).ok().prints("pending");
    assert_eq!(std::fs::read(shell.path("reelq.db")).unwrap(), bytes);
    set_mode("reelq.db", 0o644);
    run(&["check"]).ends(78).prints(words);
    set_mode("reelq.db-wal", 0o644);
    set_mode("reelq.db-shm", 0o644);

    // Whoever may write need not wait for who does.
    shell.with_store(async |store| {
        let writing = store.insert_with(async |_| {
            let ran = run(&["check"]).ends(69).prints("1 job, undamaged");
            Ok::<_, reelq::store::StoreError>(ran)
        });
        writing.await.unwrap();
    });
}
