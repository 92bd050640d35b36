//! How a command ends: the one place where an error becomes an exit status.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::engine::EngineError;
use crate::http::HttpError;
use crate::lock::LockError;
use crate::provider::SetupError;
use crate::service::ServiceError;
use crate::store::StoreError;
use crate::webhook::WebhookError;

/// What the process tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// It is done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// It was called wrongly.
    Usage = 2,
    /// It ended, but some jobs are failed, cancelled or unconfirmed.
    Unsettled = 3,
    /// The jobs that were given are wrong.
    BadData = 65,
    /// Something that it needs is not there now; it may be later.
    Unavailable = 69,
    /// Another daemon holds this queue.
    Held = 75,
    /// The configuration is wrong: no other try helps until a person changes it.
    BadConfig = 78,
    /// `wait` came to its time-out.
    TimedOut = 124,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For the caller.
    pub status: ExitStatus,
    /// For the person: what happened and what can be done, one line a fault.
    /// Empty where all was said before.
    pub message: String,
}

impl Failure {
    /// A failure with this status and message.
    pub fn new(status: ExitStatus, message: impl fmt::Display) -> Failure {
        Failure {
            status,
            message: message.to_string(),
        }
    }

    /// It failed.
    pub fn failed(message: impl fmt::Display) -> Failure {
        Failure::new(ExitStatus::Failed, message)
    }

    /// It was called wrongly, in a way that the arguments' own rules do not see.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(ExitStatus::Usage, message)
    }

    /// The signals that stop a command cannot be caught.
    pub fn no_signals(error: io::Error) -> Failure {
        Failure::failed(format_args!("cannot wait for signals: {error}"))
    }

    /// Something went wrong with a file.
    pub fn file(name: impl fmt::Display, error: &io::Error) -> Failure {
        Failure::failed(format_args!("{name}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(ExitStatus::BadConfig, error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let status = match error {
            // Another process has it just now.
            StoreError::Busy { .. } => ExitStatus::Unavailable,
            // `database` names what is no queue, or none that can be used: as
            // with every wrong setting, only a person can change that.
            StoreError::Unusable { .. } => ExitStatus::BadConfig,
            StoreError::Rule(_) => ExitStatus::BadData,
            StoreError::Full { .. } | StoreError::Sync { .. } | StoreError::Other { .. } => {
                ExitStatus::Failed
            }
        };
        Failure::new(status, error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        match error {
            EngineError::Store(error) => error.into(),
            error @ EngineError::Sync(_) => Failure::failed(error),
        }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Failure {
        match error {
            DaemonError::Engine(error) => error.into(),
            error => Failure::failed(error),
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Failure {
        match error {
            ServiceError::Config(error) => error.into(),
            ServiceError::Store(error) => error.into(),
            ServiceError::Engine(error) => error.into(),
            ServiceError::Setup(error) => error.into(),
            error @ ServiceError::Folder { .. } => Failure::new(ExitStatus::BadConfig, error),
        }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Failure {
        let status = match error {
            // Whoever has the address may give it back.
            HttpError::InUse { .. } => ExitStatus::Unavailable,
            HttpError::Off | HttpError::Bind { .. } | HttpError::Open(_) => ExitStatus::BadConfig,
        };
        Failure::new(status, error)
    }
}

impl From<WebhookError> for Failure {
    fn from(error: WebhookError) -> Failure {
        match error {
            WebhookError::Store(error) => error.into(),
            error @ WebhookError::Secret => Failure::new(ExitStatus::BadConfig, error),
            error @ WebhookError::Client(_) => Failure::failed(error),
        }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Failure {
        let status = match error {
            LockError::Held { .. } => ExitStatus::Held,
            LockError::Io { .. } => ExitStatus::BadConfig,
        };
        Failure::new(status, error)
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Failure {
        Failure::failed(error)
    }
}
