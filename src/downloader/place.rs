//! One place of a video: what it answers, and what of that is stored.

use std::collections::HashSet;

use url::Url;

use super::{Answer, Fetch, failed_answer};
use crate::provider::{Opened, unzipped};
use crate::sink::{Origin, Resume, SinkError};
use crate::verdict;

/// Redirects and JSON answers that are followed for one place.
const MAX_HOPS: usize = 10;

/// The most that is read of an answer that is not a video, in bytes.
const MAX_WORDS: usize = 64 * 1024;

/// An open-ended video that is shorter than asked by more than this may lack its last
/// fragment, in milliseconds.
const CUT_TOLERANCE: u64 = 100;

/// So many bytes may be stored between two looks at the free space.
const LOOK_AT_SPACE: u64 = 1024 * 1024;

impl Fetch<'_> {
    /// One place, with the redirects and JSON answers that lead on from it.
    pub(super) async fn try_place(&mut self, mut url: Url, mut with_key: bool) -> Answer {
        let mut seen = HashSet::new();
        for _ in 0..MAX_HOPS {
            let resume = self.part.resume();
            // What could not be stored is not asked for.
            let rest = resume.as_ref().and_then(|r| r.total?.checked_sub(r.offset));
            if let Err(full) = self.has_room(rest.unwrap_or(1)) {
                return self.leave(full).await;
            }
            if !seen.insert((url.clone(), with_key, resume.is_some())) {
                return Answer::Useless("redirects in a circle".to_owned());
            }
            let range = resume.as_ref().map(|r| (r.offset, r.validator.as_str()));
            let mut opened = match self.provider.open(&url, with_key, range).await {
                Ok(opened) => opened,
                Err(error) if error.unreachable => return Answer::Unreachable(error.words),
                Err(error) => return Answer::Interrupted(error.words),
            };
            match opened.status {
                200 => match self.begin(&mut opened).await {
                    Begin::Video => {
                        // Where each answer begins anew, a longer one is luck and no progress.
                        let had = (!self.had_some).then_some(0);
                        return self.receive(&mut opened, had).await;
                    }
                    Begin::Elsewhere(link) => {
                        match self.provider.video_address(&link, Some(&url)) {
                            Ok(next) => {
                                with_key = false;
                                url = next;
                            }
                            Err(refused) => return Answer::Useless(refused),
                        }
                    }
                    Begin::End(answer) => return answer,
                },
                206 if resume.as_ref().is_some_and(|r| is_the_rest(r, &opened)) => {
                    let had = resume.map(|r| r.offset);
                    return self.receive(&mut opened, had).await;
                }
                // Not the rest that was asked for: from the beginning, once.
                206 | 416 => {
                    if let Err(error) = self.part.clear().await {
                        return failed_answer(error);
                    }
                }
                301 | 302 | 303 | 307 | 308 => {
                    let Some(location) = &opened.location else {
                        return Answer::Useless(format!(
                            "HTTP {} without an address",
                            opened.status
                        ));
                    };
                    match self.provider.video_address(location, Some(&url)) {
                        Ok(next) => {
                            with_key = with_key && self.provider.is_own(&next);
                            url = next;
                        }
                        Err(refused) => return Answer::Useless(refused),
                    }
                }
                401 | 403 if !with_key && self.provider.is_own(&url) => with_key = true,
                408 | 425 | 429 | 500.. => return Answer::Interrupted(words(&mut opened).await),
                _ => return Answer::Useless(words(&mut opened).await),
            }
        }
        Answer::Useless(format!("more than {MAX_HOPS} redirects"))
    }

    /// Looks at the first bytes of a whole answer.
    async fn begin(&mut self, opened: &mut Opened) -> Begin {
        let end = |answer| Begin::End(answer);
        if let Some(length) = opened.length {
            if length > self.downloads.max_bytes {
                return end(Answer::Useless(format!(
                    "{length} bytes, more than download.max_bytes = {}",
                    self.downloads.max_bytes
                )));
            }
            // What is there already makes room for it.
            if let Err(full) = self.has_room(length.saturating_sub(self.part.len())) {
                return end(self.leave(full).await);
            }
        }
        let mut head = Vec::new();
        while head.len() < 12 {
            match opened.chunk().await {
                Ok(Some(chunk)) => head.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return end(Answer::Broken(error.to_string())),
            }
        }
        if head.get(4..8) != Some(b"ftyp") {
            return self.not_a_video(head, opened).await;
        }
        let origin = Origin {
            validator: opened.validator.clone(),
            total: opened.length,
            source: self.job.task_id.clone().unwrap_or_default(),
        };
        let stored = match self.part.restart(origin).await {
            Ok(()) => self.part.append(head.into()).await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(()) => Begin::Video,
            Err(error) => end(failed_answer(error)),
        }
    }

    /// JSON may say where the video is; anything else is shown as evidence.
    async fn not_a_video(&self, mut body: Vec<u8>, opened: &mut Opened) -> Begin {
        while body.len() < MAX_WORDS {
            match opened.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                // What has come of it shows well enough that it is none.
                Ok(None) | Err(_) => break,
            }
        }
        let body = unzipped(body, MAX_WORDS);
        if let Some(json) = verdict::parse(&body)
            && let Some(link) = verdict::urls(&json).into_iter().next()
        {
            return Begin::Elsewhere(link);
        }
        let text = verdict::shorten(&String::from_utf8_lossy(&body), 120);
        Begin::End(Answer::Useless(format!("not a video, but {text:?}")))
    }

    /// Stores the rest of the answer and finishes the file. More than `had`
    /// bytes are progress.
    async fn receive(&mut self, opened: &mut Opened, had: Option<u64>) -> Answer {
        let mut looked_at = self.part.len();
        let broken = loop {
            if self.part.len() - looked_at >= LOOK_AT_SPACE {
                looked_at = self.part.len();
                if let Err(full) = self.has_room(1) {
                    break Some(full);
                }
            }
            match opened.chunk().await {
                Ok(Some(chunk)) => {
                    if self.part.len() + chunk.len() as u64 > self.downloads.max_bytes {
                        return match self.part.clear().await {
                            Ok(()) => Answer::Useless(format!(
                                "longer than download.max_bytes = {}",
                                self.downloads.max_bytes
                            )),
                            Err(error) => failed_answer(error),
                        };
                    }
                    if let Err(error) = self.part.append(chunk).await {
                        break Some(failed_answer(error));
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(Answer::Broken(error.to_string())),
            }
        };
        self.advanced =
            self.part.resume().is_some() && had.is_some_and(|had| self.part.len() > had);
        if let Some(answer) = broken {
            return self.leave(answer).await;
        }
        let total = opened.range.and_then(|(_, total)| total);
        if opened.length.or(total).is_none() && self.seems_cut().await {
            return self
                .cut("shorter than asked, and nothing shows that it is whole".to_owned())
                .await;
        }
        match self.part.finish(total).await {
            Ok((file, movie)) => Answer::Saved(file, movie),
            Err(error) if error.is_truncation() => self.cut(error.to_string()).await,
            Err(error @ (SinkError::Invalid { .. } | SinkError::Length { .. })) => {
                match self.part.clear().await {
                    Ok(()) => failed_answer(error),
                    Err(error) => failed_answer(error),
                }
            }
            Err(error) => failed_answer(error),
        }
    }

    /// The answer ended before the video did. Where that happens each time a bit
    /// later, the video is whole in the end; elsewhere the place has none.
    async fn cut(&mut self, reason: String) -> Answer {
        let answer = match self.advanced {
            true => Answer::Interrupted(reason),
            false => Answer::Useless(reason),
        };
        self.leave(answer).await
    }

    fn has_room(&self, bytes: u64) -> Result<(), Answer> {
        match self.downloads.has_room_for(bytes) {
            true => Ok(()),
            false => Err(Answer::Full(format!(
                "not enough free space: a quarter of download.min_free_space = {} stays free",
                bytesize::ByteSize(self.downloads.min_free_space)
            ))),
        }
    }

    /// Keeps what the next try can go on from; the rest only takes up room.
    async fn leave(&mut self, answer: Answer) -> Answer {
        let left = match self.part.resume() {
            Some(_) => self.part.flush().await,
            None => self.part.clear().await,
        };
        left.map_or_else(failed_answer, |()| answer)
    }

    /// A fragmented video may be cut between two fragments and look whole. Where
    /// nobody said how long it is, a short one is believed when it comes again as it was.
    async fn seems_cut(&mut self) -> bool {
        let asked = u64::from(self.job.spec.duration) * 1_000;
        let is_short = self.part.inspect().await.is_ok_and(|movie| {
            movie.open_ended
                && movie
                    .duration_ms
                    .is_some_and(|is| is + CUT_TOLERANCE < asked)
        });
        let length = is_short.then(|| self.part.len());
        self.downloads.cut_lengths.differs(self.job.id, length)
    }
}

/// Whether a partial answer begins where the partial file ends, in the same
/// content: not every server that sends a range has looked at `If-Range`.
fn is_the_rest(resume: &Resume, opened: &Opened) -> bool {
    let same_content = opened.validator.as_deref() == Some(resume.validator.as_str());
    same_content
        && opened.range.is_some_and(|(first, total)| {
            first == resume.offset
                && (total.is_none() || resume.total.is_none() || total == resume.total)
        })
}

/// What the beginning of a whole answer shows.
enum Begin {
    Video,
    Elsewhere(String),
    End(Answer),
}

/// `HTTP 404: the server's words`.
async fn words(opened: &mut Opened) -> String {
    let mut body = Vec::new();
    while body.len() < 2_048 {
        match opened.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    let text = verdict::shorten(String::from_utf8_lossy(&body).trim(), 200);
    format!("HTTP {} {text}", opened.status)
        .trim_end()
        .to_owned()
}
