//! How many jobs go to the database at once.

use crate::job::JobSpec;

/// Jobs that go to the database at once, and about how much text.
const JOBS: usize = 2_000;
const BYTES: usize = 2 << 20;

/// Gathers jobs until they are enough to be inserted together, so that neither
/// many small ones nor a few large ones need much memory.
#[derive(Debug, Default)]
pub struct Portion {
    jobs: Vec<JobSpec>,
    bytes: usize,
}

impl Portion {
    /// Takes a job in, and gives all of them where they are enough.
    pub fn push(&mut self, spec: JobSpec) -> Option<Vec<JobSpec>> {
        self.bytes += spec.prompt.len()
            + spec.image_url.len()
            + spec.metadata.as_ref().map_or(0, String::len);
        self.jobs.push(spec);
        let enough = self.jobs.len() >= JOBS || self.bytes >= BYTES;
        enough.then(|| self.take())
    }

    /// Gives what there is.
    pub fn take(&mut self) -> Vec<JobSpec> {
        self.bytes = 0;
        // As many again are likely.
        let room = Vec::with_capacity(self.jobs.len());
        std::mem::replace(&mut self.jobs, room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_many_small_jobs_nor_a_few_large_ones_are_too_much() {
        let small = JobSpec::new("p", "https://e");
        let large = JobSpec {
            prompt: "p".repeat(100_000),
            metadata: Some(format!("{{\"a\":\"{}\"}}", "m".repeat(65_000))),
            ..small.clone()
        };
        for (spec, most) in [(small, JOBS), (large, 13)] {
            let mut portion = Portion::default();
            for _ in 0..2 {
                let full = (1..).find_map(|_| portion.push(spec.clone())).unwrap();
                assert_eq!(full.len(), most);
            }
            assert!(portion.take().is_empty());
        }
    }
}
