use std::fs;
use std::os::unix::fs::PermissionsExt;

use jiff::tz::TimeZone;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::money::Money;

const SECRET: &str = "sk-do-not-show-me";

/// A folder of its own, with an empty `config.toml` so that no file in
/// `/etc` has a say.
struct Desk {
    folder: TempDir,
    sources: Sources,
}

impl Desk {
    fn new() -> Desk {
        let folder = TempDir::new().unwrap();
        let sources = Sources {
            folder: folder.path().to_owned(),
            ..Sources::default()
        };
        Desk { folder, sources }.file("config.toml", "")
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Desk {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    fn toml(self, text: &str) -> Desk {
        self.file("config.toml", text)
    }

    fn env(mut self, name: &str, value: &str) -> Desk {
        self.sources.env.insert(name.into(), value.into());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self) -> Result<Settings, ConfigError> {
        load(self.sources.clone())
    }

    fn good(&self) -> Settings {
        self.load().unwrap()
    }

    fn faults(&self) -> String {
        self.load().expect_err("it was taken").to_string()
    }

    fn key(&self) -> Result<String, String> {
        let key = self.good().api_key();
        key.map(|key| key.expose().to_owned())
            .map_err(|fault| fault.to_string())
    }
}

/// `section.key` and a TOML value as a file.
fn assignment(key: &str, value: &str) -> String {
    match key.rsplit_once('.') {
        Some((section, name)) => format!("[{section}]\n{name} = {value}\n"),
        None => format!("{key} = {value}\n"),
    }
}

#[test]
fn what_is_left_out_has_the_documented_value() {
    let desk = Desk::new();
    let s = desk.good();
    assert_eq!(s.file, Some(desk.path("config.toml")));
    assert_eq!(s.database, desk.path("reelq.db"));
    assert_eq!(s.provider.base_url.as_str(), "https://api.aijisu.cn/");
    assert!(!s.provider.key.is_set());
    assert_eq!(s.provider.model, "grok-video-1.5");
    assert_eq!((s.submit.max_in_flight, s.submit.rate_per_minute), (20, 60));
    assert_eq!(s.submit.request_timeout, 2 * MINUTE);
    assert_eq!(s.submit.on_unconfirmed, OnUnconfirmed::Hold);
    assert_eq!(s.poll.interval, 5 * SECOND);
    assert_eq!(s.poll.slow_after, 10 * MINUTE);
    assert_eq!(s.poll.slow_interval, MINUTE);
    assert_eq!(s.poll.deadline, 25 * HOUR);
    assert_eq!(s.poll.request_timeout, 30 * SECOND);
    assert_eq!(s.download.dir, desk.path("videos"));
    assert_eq!(s.download.name.to_string(), "{batch}/{id}.mp4");
    assert!(!s.download.sidecar);
    assert_eq!(s.download.concurrency, 4);
    assert_eq!(s.download.idle_timeout, 30 * SECOND);
    assert_eq!(s.download.max_bytes, 2 << 30);
    assert_eq!(s.download.min_free_space, 1 << 30);
    assert_eq!(s.budget.max_jobs_per_day, 0);
    assert_eq!(s.budget.max_cost_per_day, Money::ZERO);
    assert_eq!(s.budget.timezone, TimeZone::UTC);
    assert!(s.budget.price_per_second.is_empty());
    assert_eq!(s.webhook.url, None);
    assert!(!s.webhook.secret.is_set());
    assert_eq!(s.http.listen, Listen::Off);
    assert!(!s.http.token.is_set());
    assert_eq!(s.log.format, LogFormat::Auto);
    assert_eq!(s.warnings(), Vec::<String>::new());
}

#[test]
fn the_example_is_a_file_that_changes_nothing() {
    let desk = Desk::new().toml(EXAMPLE);
    let shown = |s: Settings| format!("{:#?}", Settings { file: None, ..s });
    assert_eq!(
        shown(desk.good()),
        shown(defaults(desk.folder.path()).unwrap())
    );
}

/// Together with the test above: no key of the example goes unread, and none is
/// read that the example does not show.
#[test]
fn every_key_is_judged_in_the_file_and_in_the_environment() {
    let mut keys = 0;
    let mut section = String::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned() + ".";
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys += 1;
            let key = format!("{section}{}", name.trim_matches('"'));
            let faults = Desk::new().toml(&assignment(&key, "[]")).faults();
            let place = format!("config.toml: {key}: found a list, allowed is ");
            assert!(faults.contains(&place), "{key}: {faults}");

            let variable = format!("REELQ_{}", key.to_uppercase().replace('.', "__"));
            // Any text is a database, a model, a folder, a name, a file.
            let value = match key.as_str() {
                "database" | "download.dir" | "provider.model" | "download.name" => "",
                file if file.ends_with("_file") => "~/x",
                _ => "\u{7f}",
            };
            let faults = Desk::new().env(&variable, value).faults();
            assert!(
                faults.starts_with(&format!("{variable}: found ")),
                "{faults}"
            );
            assert_eq!(faults.lines().count(), 1, "{faults}");
        }
    }
    assert_eq!(keys, 31, "this test lost sight of some");
}

#[test]
fn each_value_is_read_as_it_was_written() {
    type Shown = fn(&Settings) -> String;
    let micros: Shown = |s| s.budget.max_cost_per_day.micros().to_string();
    let price: Shown = |s| format!("{:?}", s.budget.price_per_second);
    let url: Shown = |s| s.provider.base_url.join("v1/videos").unwrap().to_string();
    let bytes: Shown = |s| s.download.max_bytes.to_string();
    let free: Shown = |s| s.download.min_free_space.to_string();
    let interval: Shown = |s| format!("{:?}", s.poll.interval);
    let listen: Shown = |s| format!("{:?}", s.http.listen);
    #[rustfmt::skip]
    let cases: &[(&str, &str, Shown, &str)] = &[
        ("budget.max_cost_per_day", "0.60", micros, "600000"),
        ("budget.max_cost_per_day", "3", micros, "3000000"),
        ("budget.max_cost_per_day", "\"0.000001\"", micros, "1"),
        ("budget.max_cost_per_day", "0.000001", micros, "1"),
        ("budget.max_cost_per_day", "1e-6", micros, "1"),
        ("budget.max_cost_per_day", "999999999.999999", micros, "999999999999999"),
        ("budget.max_cost_per_day", "\"9000000000.000001\"", micros, "9000000000000001"),
        ("budget.price_per_second.720p", "0.1", price, "{P720: Money(100000)}"),
        ("provider.base_url", "\"https://h.example\"", url, "https://h.example/v1/videos"),
        ("provider.base_url", "\"https://h.example/\"", url, "https://h.example/v1/videos"),
        ("provider.base_url", "\"https://h.example/api\"", url, "https://h.example/api/v1/videos"),
        ("provider.base_url", "\"https://h.example/api//\"", url, "https://h.example/api/v1/videos"),
        ("provider.base_url", "\"https://h.example/v1\"", url, "https://h.example/v1/videos"),
        ("provider.base_url", "\"https://h.example/api/v1/\"", url, "https://h.example/api/v1/videos"),
        ("provider.base_url", "\"https://h.example/apiv1\"", url, "https://h.example/apiv1/v1/videos"),
        ("provider.base_url", "\"http://127.0.0.1:9\"", url, "http://127.0.0.1:9/v1/videos"),
        ("download.max_bytes", "1024", bytes, "1024"),
        ("download.max_bytes", "\"500MB\"", bytes, "500000000"),
        ("download.max_bytes", "\"1.5 GiB\"", bytes, "1610612736"),
        ("download.min_free_space", "0", free, "0"),
        ("poll.interval", "\"3s\"", interval, "3s"),
        ("poll.interval", "\"10s\"", interval, "10s"),
        ("poll.interval", "\"3500ms\"", interval, "3.5s"),
        ("poll.deadline", "\"1day 2h\"", |s| s.poll.deadline.as_secs().to_string(), "93600"),
        ("poll.slow_after", "\"0s\"", |s| s.poll.slow_after.as_secs().to_string(), "0"),
        ("submit.max_in_flight", "100000", |s| s.submit.max_in_flight.to_string(), "100000"),
        ("submit.on_unconfirmed", "\"resubmit\"", |s| format!("{:?}", s.submit.on_unconfirmed), "Resubmit"),
        ("download.sidecar", "true", |s| s.download.sidecar.to_string(), "true"),
        ("budget.max_jobs_per_day", "9223372036854775807", |s| s.budget.max_jobs_per_day.to_string(), "9223372036854775807"),
        ("budget.timezone", "\"Asia/Shanghai\"", |s| s.budget.timezone.iana_name().unwrap().to_owned(), "Asia/Shanghai"),
        ("webhook.url", "\"https://h.example/hook?id=1\"", |s| s.webhook.url.clone().unwrap().to_string(), "https://h.example/hook?id=1"),
        ("http.listen", "\"127.0.0.1:8787\"", listen, "Tcp(127.0.0.1:8787)"),
        ("http.listen", "\"[::1]:0\"", listen, "Tcp([::1]:0)"),
        ("http.listen", "\"localhost:8787\"", listen, "Tcp(127.0.0.1:8787)"),
        ("http.listen", "\"unix:/run/reelq/reelq.sock\"", listen, "Unix(\"/run/reelq/reelq.sock\")"),
        ("log.format", "\"json\"", |s| format!("{:?}", s.log.format), "Json"),
    ];
    for (key, value, shown, expected) in cases {
        let settings = Desk::new().toml(&assignment(key, value)).good();
        assert_eq!(shown(&settings), *expected, "{key} = {value}");
        let variable = format!("REELQ_{}", key.to_uppercase().replace('.', "__"));
        if !value.contains("e-") {
            let settings = Desk::new().env(&variable, value.trim_matches('"')).good();
            assert_eq!(shown(&settings), *expected, "{variable}={value}");
        }
    }
}

#[test]
fn what_is_impossible_is_refused_with_what_is_allowed() {
    #[rustfmt::skip]
    let cases = [
        ("database", "5", "found 5, allowed is a path"),
        ("database", "\"\"", "allowed is a path"),
        ("database", "\"~/reelq.db\"", "\"~\" is not expanded"),
        ("provider.base_url", "\"\"", "found no URL"),
        ("provider.base_url", "\"api.example\"", "found no URL"),
        ("provider.base_url", "\"ftp://h.example\"", "another scheme"),
        ("provider.base_url", "\"localhost:80\"", "another scheme"),
        ("provider.base_url", "\"https://u:p4ss@h.example\"", "a user name or a password"),
        ("provider.base_url", "\"https://h.example?k=p4ss\"", "found a query"),
        ("provider.base_url", "\"https://h.example#p4ss\"", "found a fragment"),
        ("provider.base_url", "\"https://h.example/a b\"", "a blank"),
        ("provider.api_key_file", "5", "found 5, allowed is a path"),
        ("provider.model", "\"\"", "1 to 200 bytes"),
        ("provider.model", "\"a\\nb\"", "control characters"),
        ("submit.max_in_flight", "0", "found 0, allowed is a whole number from 1 to 100000"),
        ("submit.max_in_flight", "100001", "from 1 to 100000"),
        ("submit.max_in_flight", "-1", "found -1"),
        ("submit.max_in_flight", "\"20\"", "found \"20\", allowed is a whole number"),
        ("submit.max_in_flight", "20.0", "found 20.0"),
        ("submit.rate_per_minute", "0", "from 1 to 60000"),
        ("submit.rate_per_minute", "60001", "from 1 to 60000"),
        ("submit.request_timeout", "120", "found 120, allowed is a duration from 1s to 1h, with its unit"),
        ("submit.request_timeout", "\"120\"", "with its unit"),
        ("submit.request_timeout", "\"0\"", "from 1s to 1h"),
        ("submit.request_timeout", "\"2h\"", "from 1s to 1h"),
        ("submit.on_unconfirmed", "\"retry\"", "found \"retry\", allowed is \"hold\" or \"resubmit\""),
        ("submit.on_unconfirmed", "true", "found true"),
        ("poll.interval", "\"2999ms\"", "from 3s to 10s"),
        ("poll.interval", "\"10001ms\"", "from 3s to 10s"),
        ("poll.slow_after", "\"0\"", "from 0s to 30days, with its unit"),
        ("poll.slow_after", "\"31days\"", "from 0s to 30days"),
        ("poll.slow_interval", "\"4s\"", "from 5s to 1h"),
        ("poll.slow_interval", "\"61m\"", "from 5s to 1h"),
        ("poll.deadline", "\"1s\"", "from 5s to 30days"),
        ("poll.request_timeout", "\"11m\"", "from 1s to 10m"),
        ("download.dir", "\"\"", "allowed is a path"),
        ("download.name", "\"\"", "a file name template"),
        ("download.name", "\"../{id}.mp4\"", "found \"../{id}.mp4\" is not a file name template"),
        ("download.name", "\"/v/{id}.mp4\"", "must be relative; download.dir says in which folder"),
        ("download.name", "\"{nonsense}.mp4\"", "allowed is a file name template"),
        ("download.sidecar", "\"true\"", "allowed is true or false"),
        ("download.concurrency", "65", "from 1 to 64"),
        ("download.idle_timeout", "\"0s\"", "from 1s to 1h"),
        ("download.max_bytes", "0", "from 1 bytes on"),
        ("download.max_bytes", "\"2 potatoes\"", "\"2GiB\""),
        ("download.max_bytes", "\"99999EiB\"", "\"2GiB\""),
        ("download.min_free_space", "-1", "from 0 bytes on"),
        ("budget.max_jobs_per_day", "-1", "a whole number from 0 on"),
        ("budget.max_jobs_per_day", "1.5", "a whole number from 0 on"),
        ("budget.max_cost_per_day", "-0.5", "found -0.5, allowed is an amount"),
        ("budget.max_cost_per_day", "0.0000001", "at most six decimals"),
        ("budget.max_cost_per_day", "\"0.0000001\"", "at most six decimals"),
        ("budget.max_cost_per_day", "1000000000.5", "in quotes"),
        ("budget.max_cost_per_day", "nan", "found NaN"),
        ("budget.max_cost_per_day", "-inf", "found -inf"),
        ("budget.max_cost_per_day", "\"9999999999999999\"", "an amount"),
        ("budget.timezone", "\"Mars/Olympus\"", "found \"Mars/Olympus\", allowed is a time zone"),
        ("budget.timezone", "\"\"", "a time zone"),
        ("budget.price_per_second.1080p", "-1", "an amount"),
        ("webhook.url", "\"hooks.example/p4ss\"", "found no URL"),
        ("webhook.url", "\"https://u:p4ss@h.example\"", "a user name or a password"),
        ("http.listen", "\"8787\"", "\"IP:PORT\""),
        ("http.listen", "\"localhost\"", "\"localhost:PORT\""),
        ("http.listen", "\"localhost:http\"", "\"localhost:PORT\""),
        ("http.listen", "\"example.com:8787\"", "\"IP:PORT\""),
        ("http.listen", "\"unix:\"", "\"unix:PATH\""),
        ("http.listen", "\"0.0.0.0:8787\"", "set `http.token_file`"),
        ("http.listen", "\"[::]:8787\"", "set `http.token_file`"),
        ("log.format", "\"xml\"", "\"auto\" or \"pretty\" or \"journald\" or \"json\""),
    ];
    for (key, value, says) in cases {
        let faults = Desk::new().toml(&assignment(key, value)).faults();
        let place = format!("config.toml: {key}: ");
        assert!(
            faults.contains(&place) && faults.contains(says) && faults.lines().count() == 1,
            "{key} = {value}: {faults}"
        );
        assert!(!faults.contains("p4ss"), "{faults}");
    }
}

#[test]
fn a_socket_path_has_room_in_its_address() {
    for (length, good) in [(107, true), (108, false)] {
        let value = format!("\"unix:/{}\"", "x".repeat(length - 1));
        let desk = Desk::new().toml(&assignment("http.listen", &value));
        assert_eq!(desk.load().is_ok(), good, "{length}");
    }
}

#[test]
fn what_is_unknown_is_refused_with_what_was_probably_meant() {
    #[rustfmt::skip]
    let cases = [
        ("[submit]\nmax_inflight = 3", "submit.max_inflight: ", "did you mean `submit.max_in_flight`?"),
        ("max_in_flight = 3", "max_in_flight: ", "did you mean `submit.max_in_flight`?"),
        ("[sumbit]\nmax_in_flight = 3", "sumbit.max_in_flight: ", "`submit.max_in_flight`"),
        ("[sumbit]", "sumbit: ", "unknown setting"),
        ("\"submit.max_in_flight\" = 3", "\"submit.max_in_flight\": ", "unknown setting"),
        ("[submit]\nparallel = 3", "submit.parallel: ", "allowed in [submit]: max_in_flight, on_unconfirmed, rate_per_minute, request_timeout"),
        ("[budget]\nmonthly_limits = 3", "budget.monthly_limits: ", "allowed in [budget]: max_cost_per_day, max_jobs_per_day, timezone, [budget.price_per_second]"),
        ("[budget.price_per_second]\n\"4k\" = 1.0", "budget.price_per_second.4k: ", "allowed in [budget.price_per_second]: 1080p, 480p, 720p"),
        ("submit = 5", "submit: ", "found 5, allowed is a table: [submit]"),
        ("[[webhook]]\nurl = \"\"", "webhook: ", "found a list, allowed is a table: [webhook]"),
        ("[database]\npath = \"x\"", "database.path: ", "unknown setting"),
        ("[http]\ntoken = \"sk-do-not-show-me\"", "http.token: ", "`http.token_file`"),
        ("[provider]\napi_key = \"sk-do-not-show-me\"", "provider.api_key: ", "`provider.api_key_file`"),
        ("api_key = \"sk-do-not-show-me\"", "api_key: ", "`provider.api_key_file`"),
        ("nothing_like_it_at_all = 1", "nothing_like_it_at_all: ", "unknown setting; allowed are database, [budget], [download], [http], [log], [poll], [provider], [submit], [webhook]"),
    ];
    for (text, place, says) in cases {
        let faults = Desk::new().toml(text).faults();
        let place = format!("config.toml: {place}");
        assert!(
            faults.contains(&place) && faults.contains(says),
            "{text}: {faults}"
        );
        assert!(!faults.contains(SECRET), "{faults}");
    }
    for (variable, says) in [
        (
            "REELQ_SUBMIT__MAX_INFLIGHT",
            "did you mean REELQ_SUBMIT__MAX_IN_FLIGHT?",
        ),
        (
            "REELQ_SUBMIT_MAX_IN_FLIGHT",
            "did you mean REELQ_SUBMIT__MAX_IN_FLIGHT?",
        ),
        ("REELQ_API_KEY", "did you mean REELQ_PROVIDER__API_KEY?"),
        (
            "REELQ_SUBMIT__PARALLEL",
            "unknown variable; allowed in REELQ_SUBMIT__*: REELQ_SUBMIT__MAX_IN_FLIGHT, \
             REELQ_SUBMIT__ON_UNCONFIRMED, REELQ_SUBMIT__RATE_PER_MINUTE, REELQ_SUBMIT__REQUEST_TIMEOUT",
        ),
        ("REELQ_PROVIDER__SOMETHING", "REELQ_PROVIDER__API_KEY, "),
        ("REELQ_FOO", "unknown variable; allowed are REELQ_CONFIG, "),
        (
            "REELQ_CONFIGURATION",
            "unknown variable; allowed are REELQ_CONFIG, REELQ_DATABASE, REELQ_LOG, REELQ_BUDGET__*, ",
        ),
        ("REELQ_", "unknown variable"),
    ] {
        let faults = Desk::new().env(variable, SECRET).faults();
        let place = format!("{variable}: ");
        assert!(
            faults.starts_with(&place) && faults.contains(says),
            "{faults}"
        );
        assert!(!faults.contains(SECRET), "{faults}");
    }
    Desk::new()
        .env("REELQ_LOG", "debug")
        .env("PATH", "/bin")
        .good();
    Desk::new().toml("[submit]\n[webhook]\n").good();
}

#[test]
fn what_is_no_toml_is_refused_in_one_line() {
    #[rustfmt::skip]
    let cases = [
        (&b"[submit]\nmax_in_flight = \n"[..], "config.toml: line 2, column "),
        (b"\n\n[submit\n", "config.toml: line 3, column "),
        (b"[log]\nformat = sk-do-not-show-me\n", "config.toml: line 2, column "),
        (b"[log]\n[log]\n", "config.toml: line 2, column "),
        (b"a = 1\na = 2\n", "config.toml: line 2, column "),
        (b"\n[submit]\nmax_in_flight = 99999999999999999999\n\n", "config.toml: line 3: submit.max_in_flight: number too large"),
        (b"[provider]\nmodel = \"a\"\nmodel = \"b\"\n", "config.toml: line 3, column 1: provider.model: duplicate key"),
        (b"\n[submit]\n# \xff\n", "config.toml: line 3: is not UTF-8"),
        (&[b'#'; 65_537], "config.toml: is longer than 65536 bytes"),
    ];
    for (text, says) in cases {
        let faults = Desk::new().file("config.toml", text).faults();
        assert!(faults.contains(says), "{faults}");
        assert_eq!(faults.lines().count(), 1, "{faults}");
        assert!(!faults.contains("show-me"), "{faults}");
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let faults = Desk::new()
        .toml("datbase = 1\n[submit]\nmax_in_flight = 0\n[poll]\ninterval = 5\n")
        .env("REELQ_LOG__FORMAT", "xml")
        .env("REELQ_NONSENSE", "1")
        .load()
        .unwrap_err();
    assert_eq!(faults.faults().len(), 5, "{faults}");
    assert_eq!(faults.to_string().lines().count(), 5);
    let broken = Desk::new().toml("[").env("REELQ_NONSENSE", "1").faults();
    assert_eq!(broken.lines().count(), 2, "{broken}");
}

#[test]
fn the_environment_goes_before_the_file_and_a_flag_before_both() {
    let mut desk = Desk::new().toml("database = \"file.db\"");
    assert_eq!(desk.good().database, desk.path("file.db"));
    desk = desk.env("REELQ_DATABASE", "env.db");
    assert_eq!(desk.good().database, desk.path("env.db"));
    desk.sources.database = Some("./sub//flag.db".into());
    assert_eq!(desk.good().database, desk.path("sub/flag.db"));
    desk.sources.database = Some("/srv/flag.db".into());
    assert_eq!(desk.good().database, PathBuf::from("/srv/flag.db"));
    desk.sources.database = Some(PathBuf::new());
    assert!(desk.faults().starts_with("--database: "));
}

#[test]
fn a_named_file_must_be_there_and_the_flag_names_it_first() {
    let mut desk = Desk::new()
        .toml("database = \"usual.db\"")
        .file("a.toml", "database = \"a.db\"")
        .file("b.toml", "database = \"b.db\"");
    assert_eq!(desk.good().database, desk.path("usual.db"));
    desk = desk.env("REELQ_CONFIG", "a.toml");
    assert_eq!(desk.good().database, desk.path("a.db"));
    desk.sources.file = Some("b.toml".into());
    assert_eq!(desk.good().database, desk.path("b.db"));
    assert_eq!(desk.good().file, Some(desk.path("b.toml")));

    desk.sources.file = Some("c.toml".into());
    let missing = desk.faults();
    assert!(missing.starts_with("--config: ") && missing.contains("c.toml does not exist"));
    desk.sources.file = None;
    for (name, says) in [
        ("c.toml", "c.toml does not exist"),
        ("", "found \"\""),
        (".", "cannot be read"),
    ] {
        desk = desk.env("REELQ_CONFIG", name);
        let faults = desk.faults();
        assert!(faults.contains(says), "{faults}");
    }
}

#[test]
fn a_usual_file_that_cannot_be_read_is_not_passed_over() {
    let desk = Desk::new();
    fs::remove_file(desk.path("config.toml")).unwrap();
    fs::create_dir(desk.path("config.toml")).unwrap();
    assert!(desk.faults().contains("config.toml: cannot be read"));
}

#[test]
fn the_key_is_the_first_that_is_set() {
    let from_file = "[provider]\napi_key_file = \"keys/file\"\n";
    let desk = || {
        Desk::new()
            .file("keys/file", "sk-file\n")
            .file("keys/env", "sk-env-file\r\n")
            .file("keys/api_key", "sk-credential")
    };
    let credentials = |desk: Desk| {
        let folder = desk.path("keys").display().to_string();
        desk.env("CREDENTIALS_DIRECTORY", &folder)
    };
    assert_eq!(credentials(desk()).key().unwrap(), "sk-credential");
    assert_eq!(
        credentials(desk()).toml(from_file).key().unwrap(),
        "sk-file"
    );
    let with = |name, value| credentials(desk()).toml(from_file).env(name, value);
    assert_eq!(with(API_KEY_VARIABLE, "sk-env\n").key().unwrap(), "sk-env");
    let file_variable = "REELQ_PROVIDER__API_KEY_FILE";
    assert_eq!(
        with(file_variable, "keys/env").key().unwrap(),
        "sk-env-file"
    );
    assert_eq!(with(file_variable, "").key().unwrap(), "sk-credential");

    let both = with(file_variable, "keys/env").env(API_KEY_VARIABLE, SECRET);
    let faults = both.faults();
    assert!(faults.starts_with(file_variable) && faults.contains(API_KEY_VARIABLE));
    assert!(!faults.contains(SECRET));

    let none = desk()
        .env("CREDENTIALS_DIRECTORY", "/nowhere")
        .key()
        .unwrap_err();
    for way in [
        "provider.api_key_file",
        API_KEY_VARIABLE,
        "$CREDENTIALS_DIRECTORY/api_key",
    ] {
        assert!(none.contains(way), "{none}");
    }
}

#[test]
fn a_bad_secret_is_named_by_its_place_and_not_shown() {
    let bad = [
        ("", "is empty"),
        ("\n", "is empty"),
        ("sk-do-not-show-me\nsecond", "contains a blank"),
        ("sk do-not-show-me", "contains a blank"),
        ("\"sk-do-not-show-me\"", "stands in quotes"),
        (
            "sk-dö-not-show-me",
            "contains a blank, a line break, a control character or a letter outside ASCII",
        ),
    ];
    for (text, says) in bad {
        let fault = Desk::new().env(API_KEY_VARIABLE, text).key().unwrap_err();
        assert!(fault.starts_with(&format!("{API_KEY_VARIABLE}: ")) && fault.contains(says));
        assert!(!fault.contains("show-me"), "{fault}");

        let settings = Desk::new().file("secret", text).toml(
            "[provider]\napi_key_file = \"./secret\"\n\
                 [webhook]\nsecret_file = \"./secret\"\n\
                 [http]\ntoken_file = \"./secret\"\n",
        );
        let settings = (settings.good(), settings);
        for (fault, key) in [
            (settings.0.api_key().unwrap_err(), "provider.api_key_file"),
            (
                settings.0.webhook_secret().unwrap_err(),
                "webhook.secret_file",
            ),
            (settings.0.http_token().unwrap_err(), "http.token_file"),
        ] {
            let fault = fault.to_string();
            assert!(
                fault.contains(&format!("config.toml: {key}: ./secret {says}")),
                "{fault}"
            );
            assert!(!fault.contains("show-me"), "{fault}");
        }
    }
}

#[test]
fn a_secret_in_the_place_of_its_file_is_not_repeated() {
    for variable in ["REELQ_PROVIDER__API_KEY_FILE", "REELQ_HTTP__TOKEN_FILE"] {
        let settings = Desk::new().env(variable, SECRET).good();
        let fault = settings
            .api_key()
            .and(settings.http_token())
            .unwrap_err()
            .to_string();
        assert!(!fault.contains(SECRET), "{fault}");
        assert!(!settings.warnings().concat().contains(SECRET));
    }
    let missing = Desk::new()
        .env("REELQ_PROVIDER__API_KEY_FILE", "/nowhere/key")
        .key();
    assert!(missing.unwrap_err().contains("/nowhere/key does not exist"));
}

#[test]
fn no_secret_is_shown_by_settings_or_sources() {
    let desk = Desk::new().env(API_KEY_VARIABLE, SECRET);
    let settings = desk.good();
    assert_eq!(settings.api_key().unwrap().expose(), SECRET);
    assert!(!format!("{:?} {:?}", desk.sources, settings).contains(SECRET));
    assert_eq!(settings.provider.key.place(), Some(API_KEY_VARIABLE));
}

#[test]
fn a_task_is_bound_to_base_url_and_key() {
    let endpoint = |url: &str, key: &str| {
        let desk = Desk::new()
            .env("REELQ_PROVIDER__BASE_URL", url)
            .env(API_KEY_VARIABLE, key);
        let settings = desk.good();
        settings.endpoint(&settings.api_key().unwrap())
    };
    let one = endpoint("https://h.example", "sk-test");
    assert_eq!(one, "https://h.example/#b6a6cc1729ed");
    assert_eq!(one, endpoint("HTTPS://H.example:443/", "sk-test"));
    assert_ne!(one, endpoint("https://h.example/api", "sk-test"));
    assert_ne!(one, endpoint("https://h.example", "sk-other"));
}

#[test]
fn a_token_opens_the_interface_to_other_machines() {
    let desk = Desk::new()
        .file("token", "t0ken\n")
        .toml("[http]\nlisten = \"0.0.0.0:80\"\ntoken_file = \"token\"\n");
    let token = desk.good().http_token().unwrap().unwrap();
    assert_eq!(token.expose_secret(), "t0ken");
    assert!(Desk::new().good().http_token().unwrap().is_none());
    assert!(Desk::new().good().webhook_secret().unwrap().is_none());
}

#[test]
fn what_is_allowed_and_odd_is_warned_of() {
    for (key, value, says) in [
        ("provider.base_url", "\"http://h.example\"", "plain http"),
        (
            "provider.base_url",
            "\"http://localhost.example\"",
            "plain http",
        ),
        ("provider.base_url", "\"http://127.1.2.3\"", ""),
        ("provider.base_url", "\"http://[::1]:80\"", ""),
        ("provider.base_url", "\"http://localhost\"", ""),
        ("submit.on_unconfirmed", "\"resubmit\"", "paid twice"),
        ("poll.deadline", "\"23h\"", "under a day"),
        ("webhook.url", "\"http://h.example\"", "plain http"),
        ("webhook.secret_file", "\"./secret\"", "without webhook.url"),
        ("http.token_file", "\"./nowhere\"", "without http.listen"),
        (
            "budget.max_cost_per_day",
            "1",
            "budget.price_per_second.1080p",
        ),
        ("budget.max_jobs_per_day", "1", ""),
        ("provider.api_key_file", "\"./secret\"", ""),
        ("provider.api_key_file", "\"./open\"", "mode 0644"),
        (
            "http.token_file",
            "\"./open\"",
            "http.token_file: ./open is open to other users",
        ),
        ("provider.api_key_file", "\"./group\"", ""),
    ] {
        let desk = Desk::new()
            .file("secret", "s")
            .file("open", "s")
            .file("group", "s")
            .toml(&assignment(key, value));
        for (name, mode) in [("open", 0o644), ("group", 0o640)] {
            fs::set_permissions(desk.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let warnings = desk.good().warnings().join("\n");
        assert_eq!(
            warnings.is_empty(),
            says.is_empty(),
            "{key} = {value}: {warnings}"
        );
        assert!(warnings.contains(says), "{key} = {value}: {warnings}");
    }
}

#[test]
fn the_process_itself_is_a_source() {
    let sources = Sources::of_process(None, Some("x.db".into())).unwrap();
    assert!(sources.folder.is_absolute());
    assert_eq!(sources.database, Some(PathBuf::from("x.db")));
    assert!(!sources.env.contains_key("PATH"));
}
