//! What runs for a while: the daemon's log, the sandbox, the demo.

use std::io::{BufRead, BufReader};

use super::*;

#[test]
fn a_demo_that_is_stopped_has_not_failed() {
    let shell = Shell::new();
    let mut demo = shell
        .command(&["demo", "--jobs", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // No video is made so soon.
    let mut begun = BufReader::new(demo.stderr.take().unwrap());
    let mut line = String::new();
    begun.read_line(&mut line).unwrap();
    assert!(line.starts_with("reelq: 2 jobs queued"), "{line}");
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    begun.read_to_string(&mut rest).unwrap();
    let ran = Ran::from(demo.wait_with_output().unwrap()).ends(3);
    assert_eq!(rest, "reelq: the demo was stopped: 0 of 2 jobs done\n");
    ran.prints("0 videos checked and in place.");
}

/// Every line of standard error as a JSON object of the log.
#[track_caller]
fn logged(ran: &Ran) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    ran.err.lines().map(line).collect()
}

#[test]
fn a_log_in_json_holds_nothing_else() {
    let shell = Shell::with_config(
        "[provider]\nbase_url = \"http://127.0.0.1:9\"\n[log]\nformat = \"json\"\n",
    );
    let id = shell.add(1, "b")[0];
    shell.happen(id, now(), vec![claimed("0"), refused()]);
    let run = || {
        let mut command = shell.command(&["run", "--until-idle"]);
        command.env("REELQ_PROVIDER__API_KEY", "sk-test");
        command
    };
    let lines = logged(&Ran::of(run()).ends(3));
    let last = lines.last().unwrap();
    assert_eq!(last["message"], "idle; 1 failed");
    assert_eq!(last["level"], "INFO");

    // Why it does not start, also where the filter lets nothing through.
    let guard = lock::acquire(&shell.path("reelq.db")).unwrap();
    let lines = logged(&Ran::of(run()).ends(75));
    assert_eq!(lines.last().unwrap()["level"], "ERROR");
    let mut silent = run();
    silent.env("REELQ_LOG", "off");
    Ran::of(silent).ends(75).says("reelq: ");
    drop(guard);
    let lines = logged(&shell.run(&["run"]).ends(78));
    let message = lines.last().unwrap()["message"].as_str().unwrap();
    assert!(message.contains("there is no API key"), "{message}");
}

#[test]
fn a_sandbox_that_cannot_listen_says_why() {
    let shell = Shell::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    shell
        .run(&["sandbox", "--listen", &taken])
        .ends(69)
        .says("is in use");
    shell
        .run(&["sandbox", "--listen", "0.0.0.0:0"])
        .ends(2)
        .says("--allow-remote");
}
