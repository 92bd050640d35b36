//! SQLite's write-ahead log.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{BUSY_TIMEOUT, NOT_WRITABLE, Store, StoreError, begin, wait_for_locks};

impl Store {
    /// Where the log is: beside the real file, whatever links lead to it.
    pub fn log_path(&self) -> PathBuf {
        let real = self.path.canonicalize();
        let mut log = real.unwrap_or_else(|_| self.path.clone()).into_os_string();
        log.push("-wal");
        log.into()
    }

    /// Writes the log once more as it is read, and syncs it.
    ///
    /// Where a sync has failed, the kernel may forget the bytes and yet go on showing
    /// them: the next life would read commits that the disk never got, and what is
    /// built on them would be lost with them. Only a new write reaches the disk.
    ///
    /// # Errors
    /// [`StoreError::Sync`] where the disk fails again, [`StoreError::Unusable`] where
    /// this process may not write.
    pub async fn resync_log(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        // Nobody appends to the log meanwhile.
        let tx = begin(&mut writer).await.map_err(|e| self.judge(e))?;
        let log = self.log_path();
        let done = tokio::task::spawn_blocking(move || rewrite(&log)).await;
        tx.rollback().await.map_err(|e| self.judge(e))?;
        done.map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| {
                let path = self.path.display().to_string();
                match error.kind() {
                    // EACCES and EPERM; EROFS.
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                        StoreError::Unusable {
                            path,
                            reason: NOT_WRITABLE.to_owned(),
                        }
                    }
                    _ => StoreError::Sync {
                        path,
                        reason: error.to_string(),
                    },
                }
            })
    }

    /// Whether this process may write, without a change and without waiting for another's lock.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where it may not.
    pub async fn try_writing(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            wait_for_locks(&mut writer, Duration::ZERO).await?;
            // A BEGIN IMMEDIATE only reads where the file cannot be written; this statement fails.
            let tried = sqlx::query("DELETE FROM facts WHERE false")
                .execute(&mut *writer)
                .await;
            wait_for_locks(&mut writer, BUSY_TIMEOUT).await?;
            tried
        };
        match result.await.map_err(|e| self.judge(e)) {
            // Locks are asked for only where writing is allowed.
            Ok(_) | Err(StoreError::Busy { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Writes a file's bytes over themselves. SQLite holds no lock on its log, so
/// there is none to be dropped by the closing.
fn rewrite(path: &Path) -> std::io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return file.sync_all();
        }
        file.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Open;

    #[tokio::test]
    async fn the_log_is_found_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("q.db"), folder.path().join("link"));
        Store::open(&real, Open::Create)
            .await
            .unwrap()
            .close()
            .await;
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let store = Store::open(&link, Open::Existing).await.unwrap();
        store.set_fact("paused", Some(""), 0).await.unwrap();
        assert!(store.log_path().metadata().unwrap().len() > 0);
    }
}
