//! Secrets: where they are kept, how they are read, and how they stay unseen.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::ConfigError;

/// The longest secret, in bytes.
pub const MAX_SECRET: usize = 4096;

/// Keeps the fingerprint apart from any other SHA-256 over the same key.
const FINGERPRINT_DOMAIN: &[u8] = b"reelq api key fingerprint v1\0";

/// The provider's API key. Visible ASCII, 1 to [`MAX_SECRET`] bytes; shown by
/// neither `Debug` nor any error.
#[derive(Clone)]
pub struct ApiKey(pub(super) SecretString);

impl ApiKey {
    /// Checks a key. The error says what is wrong with it, never what it is.
    pub fn new(text: &str) -> Result<ApiKey, &'static str> {
        checked(text.as_bytes()).map(ApiKey)
    }

    /// The key itself, for the request's header only.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// 12 hex digits that tell one key from another and give neither away.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::new()
            .chain_update(FINGERPRINT_DOMAIN)
            .chain_update(self.expose())
            .finalize();
        hash.iter().take(6).map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey(#{})", self.fingerprint())
    }
}

/// Where a secret is to be had. It is read only when it is needed, so that a
/// command that needs none works without it.
#[derive(Clone, Debug)]
pub struct SecretSource(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Nowhere,
    Text {
        place: String,
        text: SecretString,
    },
    File {
        place: String,
        path: PathBuf,
        shown: String,
    },
}

impl SecretSource {
    /// No secret is set.
    pub fn none() -> SecretSource {
        SecretSource(Kept::Nowhere)
    }

    /// The secret itself; errors name it by `place`.
    pub fn text(place: impl Into<String>, text: impl Into<String>) -> SecretSource {
        SecretSource(Kept::Text {
            place: place.into(),
            text: SecretString::from(text.into()),
        })
    }

    /// The file at `path`, which the setting at `place` names as `text`.
    pub(super) fn file(place: String, folder: &Path, text: &str, path: PathBuf) -> SecretSource {
        // A bare word may be the secret itself, put into the wrong setting.
        let shown = if text.starts_with(['/', '.']) {
            text.to_owned()
        } else {
            format!("the file it names in {}", folder.display())
        };
        SecretSource(Kept::File { place, path, shown })
    }

    /// `name` in the folder of credentials that systemd provides, where it is there.
    pub(super) fn credential(folder: &Path, name: &str) -> SecretSource {
        let path = folder.join(name);
        if matches!(path.try_exists(), Ok(false)) {
            return SecretSource::none();
        }
        SecretSource(Kept::File {
            place: format!("$CREDENTIALS_DIRECTORY/{name}"),
            shown: path.display().to_string(),
            path,
        })
    }

    /// Whether a secret is set; it may still turn out to be unreadable.
    pub fn is_set(&self) -> bool {
        !matches!(self.0, Kept::Nowhere)
    }

    /// Where the secret is kept, in an operator's words; never the secret.
    pub fn place(&self) -> Option<&str> {
        match &self.0 {
            Kept::Nowhere => None,
            Kept::Text { place, .. } | Kept::File { place, .. } => Some(place),
        }
    }

    /// Reads the secret without the newline at its end; `None` when none is set.
    pub fn read(&self) -> Result<Option<SecretString>, ConfigError> {
        match &self.0 {
            Kept::Nowhere => Ok(None),
            Kept::Text { place, text } => checked(text.expose_secret().as_bytes())
                .map(Some)
                .map_err(|why| ConfigError::one(place, why)),
            Kept::File { place, path, shown } => read_file(path)
                .map(Some)
                .map_err(|why| ConfigError::one(place, format_args!("{shown} {why}"))),
        }
    }

    /// What is wrong with the permissions of the secret's file. Reading by its
    /// group is fine: so a service gets a secret that root owns.
    pub(super) fn exposure(&self) -> Option<String> {
        let Kept::File { place, path, shown } = &self.0 else {
            return None;
        };
        let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o037 != 0).then(|| {
            format!(
                "{place}: {shown} is open to other users (mode {mode:04o}); chmod it to 600 or 640"
            )
        })
    }
}

fn read_file(path: &Path) -> Result<SecretString, String> {
    let fault = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    // Room for all of it at once: growing would leave copies behind in memory.
    let limit = MAX_SECRET + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
    File::open(path)
        .and_then(|file| file.take(limit as u64).read_to_end(&mut bytes))
        .map_err(fault)?;
    checked(&bytes).map_err(str::to_owned)
}

/// A secret as it can stand in a header. Anything else in it is a slip (a
/// second line, a quote, a blank) that the other side would only call "wrong".
fn checked(bytes: &[u8]) -> Result<SecretString, &'static str> {
    let text = bytes
        .strip_suffix(b"\r\n")
        .or(bytes.strip_suffix(b"\n"))
        .unwrap_or(bytes);
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > MAX_SECRET {
        return Err("is longer than 4096 bytes");
    }
    if let [first @ (b'"' | b'\''), .., last] = text
        && first == last
    {
        return Err("stands in quotes; allowed is the secret alone");
    }
    match std::str::from_utf8(text) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(SecretString::from(text.to_owned()))
        }
        _ => Err(
            "contains a blank, a line break, a control character or a letter outside ASCII; \
             allowed is the secret alone, in visible ASCII, with at most one newline at its end",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_text_without_its_last_newline() {
        for (bytes, good) in [
            (&b"sk-1"[..], true),
            (b"sk-1\n", true),
            (b"sk-1\r\n", true),
            (b"", false),
            (b"\n", false),
            (b"sk-1\n\n", false),
            (b"\"sk-1\"", false),
            (b"'sk-1'", false),
            (b" sk-1", false),
            (b"sk-1 ", false),
            (b"sk\t1", false),
            (b"sk\x001", false),
            (b"sk\x7f1", false),
            ("sk-ü".as_bytes(), false),
            (b"\xff\xfe", false),
            (&[b'k'; MAX_SECRET], true),
            (&[b'k'; MAX_SECRET + 1], false),
        ] {
            let read = checked(bytes);
            assert_eq!(read.is_ok(), good, "{bytes:?}");
            if bytes.starts_with(b"sk-1") && good {
                assert_eq!(read.unwrap().expose_secret(), "sk-1");
            }
        }
    }

    #[test]
    fn a_key_is_told_by_its_fingerprint_and_shown_nowhere() {
        let key = ApiKey::new("sk-very-secret").unwrap();
        assert_eq!(key.expose(), "sk-very-secret");
        assert_eq!(key.fingerprint().len(), 12);
        assert_eq!(
            key.fingerprint(),
            ApiKey::new("sk-very-secret\n").unwrap().fingerprint()
        );
        assert_ne!(
            key.fingerprint(),
            ApiKey::new("sk-very-secret2").unwrap().fingerprint()
        );
        assert!(!format!("{key:?}").contains("secret"));
    }

    // Tasks are bound to it: another value would strand every running task.
    #[test]
    fn the_fingerprint_never_changes() {
        assert_eq!(
            ApiKey::new("sk-test").unwrap().fingerprint(),
            "b6a6cc1729ed"
        );
    }
}
