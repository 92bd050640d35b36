//! What programs see of a job: the JSON of the command line and of HTTP. Pure.

use serde_json::{Value, json};

use crate::job::Job;

/// A job as a value: the columns of the table by their names.
pub fn job(job: &Job) -> Value {
    let (spec, file, failure) = (&job.spec, job.file.as_ref(), job.failure.as_ref());
    let metadata = spec.metadata.as_deref();
    json!({
        "id": job.id,
        "key": spec.key,
        "batch": spec.batch,
        "state": job.state,
        "progress": job.progress,
        "task_id": job.task_id,
        "path": file.map(|file| &file.path),
        "bytes": file.map(|file| file.bytes),
        "sha256": file.map(|file| &file.sha256),
        "error_code": failure.map(|failure| failure.code.as_str()),
        "error_message": failure.map(|failure| &failure.message),
        "note": job.note,
        "prompt": spec.prompt,
        "image_url": spec.image_url,
        "duration": spec.duration,
        "size": spec.size,
        "priority": spec.priority,
        "not_before": spec.not_before,
        "metadata": metadata.and_then(|text| serde_json::from_str::<Value>(text).ok()),
        "attempt": job.attempt,
        "cost": job.cost.micros() as f64 / 1e6,
        "due_at": job.due_at,
        "created_at": job.created_at,
        "submitted_at": job.submitted_at,
        "completed_at": job.completed_at,
        "finished_at": job.finished_at,
    })
}
