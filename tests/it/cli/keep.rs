//! Keeping: backups, and what is forgotten.

use super::*;

#[test]
fn a_backup_is_a_queue_and_replaces_nothing() {
    let shell = Shell::new();
    shell.add(3, "b");
    shell
        .run(&["backup", "copy.db"])
        .ok()
        .prints("copied the queue to copy.db");
    let jobs = shell
        .run(&["list", "--json", "--database", "copy.db"])
        .ok()
        .json();
    assert_eq!(jobs.as_array().unwrap().len(), 3);
    let before = std::fs::read(shell.path("copy.db")).unwrap();
    shell
        .run(&["backup", "copy.db"])
        .ends(1)
        .says("copy.db: the file exists already; name a new one");
    assert_eq!(std::fs::read(shell.path("copy.db")).unwrap(), before);
    shell
        .run(&["backup", "no/copy.db"])
        .ends(1)
        .says("no/copy.db: ");
    let left = std::fs::read_dir(shell.dir.path()).unwrap();
    assert!(
        left.flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with(".reelq"))
    );
}

#[test]
fn only_what_ended_long_ago_is_forgotten() {
    let shell = Shell::new();
    let ids = shell.add(4, "b");
    let day = 86_400_000;
    shell.happen(ids[0], now() - 40 * day, vec![claimed("0.60"), refused()]);
    shell.happen(ids[1], now() - 20 * day, vec![claimed("0.60"), refused()]);
    shell.happen(ids[2], now() - 40 * day, vec![claimed("0.60"), unknown()]);
    let report = shell
        .run(&["prune", "--older-than", "30d", "--json"])
        .ok()
        .json();
    assert_eq!(report["jobs"], 1);
    shell.run(&["show", "1"]).ends(1).says("there is no job 1");
    assert_eq!(shell.states(), ["failed", "unconfirmed", "pending"]);
    shell
        .run(&["prune", "--older-than", "30d"])
        .ok()
        .prints("forgot 0 jobs");
}
