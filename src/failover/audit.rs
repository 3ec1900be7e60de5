//! What was done to change a primary: every step in order, with its duration and its outcome.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Changes of the primary that are kept; each has about ten steps.
const RECORDS_MAX: usize = 100;

/// Why a primary was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The old one was lost.
    Failover,
    /// An operator asked for it.
    Switchover,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Failover => "failover",
            Kind::Switchover => "switchover",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Step {
    pub what: Arc<str>,
    /// From the beginning of the record.
    pub began: Duration,
    pub took: Duration,
    /// What came of it; an error's sentence if it failed.
    pub outcome: Result<Arc<str>, Arc<str>>,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub id: u64,
    pub kind: Kind,
    pub began: Instant,
    pub began_wall: SystemTime,
    pub from: Arc<str>,
    pub to: Option<Arc<str>>,
    pub steps: Vec<Step>,
    /// How long there was no primary for requests; `None` while, or if, it was not opened.
    pub held: Option<Duration>,
    /// `None` while it goes on.
    pub outcome: Option<Result<(), Arc<str>>>,
}

/// A cluster's records; one writer, and whoever looks.
#[derive(Debug, Default)]
pub struct Audit {
    records: Mutex<VecDeque<Record>>,
}

impl Audit {
    /// Oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.lock().iter().cloned().collect()
    }

    /// A new record, which the returned handle fills.
    pub fn begin(self: &Arc<Self>, kind: Kind, from: &Arc<str>, to: Option<Arc<str>>) -> Act {
        let mut records = self.lock();
        let id = records.back().map_or(1, |record| record.id + 1);
        if records.len() >= RECORDS_MAX {
            records.pop_front();
        }
        let (began, began_wall) = (Instant::now(), SystemTime::now());
        let record = Record {
            id,
            kind,
            began,
            began_wall,
            from: from.clone(),
            to,
            steps: Vec::new(),
            held: None,
            outcome: None,
        };
        records.push_back(record);
        Act { audit: self.clone(), id, began }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Record>> {
        // Each update is one step: a panic elsewhere leaves the records whole.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change that is under way.
#[derive(Debug)]
pub struct Act {
    audit: Arc<Audit>,
    pub id: u64,
    began: Instant,
}

impl Act {
    /// Runs a step and writes down what came of it.
    pub async fn step<T>(
        &self,
        what: impl Into<Arc<str>>,
        work: impl Future<Output = Result<(T, String), String>>,
    ) -> Result<T, String> {
        let (what, began) = (what.into(), self.began.elapsed());
        let (result, outcome) = match work.await {
            Ok((value, told)) => (Ok(value), Ok(Arc::from(told))),
            Err(error) => (Err(format!("{what}: {error}")), Err(Arc::from(error))),
        };
        let took = self.began.elapsed().saturating_sub(began);
        match &outcome {
            Ok(told) => tracing::info!(took_ms = took.as_millis(), "{what}: {told}"),
            Err(error) => tracing::warn!(took_ms = took.as_millis(), "{what} failed: {error}"),
        }
        self.change(|record| record.steps.push(Step { what, began, took, outcome }));
        result
    }

    pub fn chosen(&self, to: &Arc<str>) {
        self.change(|record| record.to = Some(to.clone()));
    }

    /// Requests go on; `since` is when the old primary was lost or held.
    pub fn opened(&self, since: Instant) {
        self.change(|record| record.held = Some(since.elapsed()));
    }

    pub fn end(self, outcome: Result<(), &str>) {
        self.change(|record| record.outcome = Some(outcome.map_err(Arc::from)));
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        let mut records = self.audit.lock();
        if let Some(record) = records.iter_mut().rev().find(|record| record.id == self.id) {
            change(record);
        }
    }
}

impl Drop for Act {
    /// A change that was broken off is not under way any more.
    fn drop(&mut self) {
        self.change(|record| {
            record.outcome.get_or_insert_with(|| Err("it was broken off".into()));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_kept_in_order_with_their_outcome() {
        let audit = Arc::new(Audit::default());
        let act = audit.begin(Kind::Failover, &"a".into(), None);
        let done = act.step("ask", async { Ok((7, "seven".to_owned())) }).await;
        assert_eq!(done, Ok(7));
        act.chosen(&"b".into());
        let failed = act.step("promote", async { Err::<((), String), _>("no".to_owned()) }).await;
        assert_eq!(failed, Err("promote: no".to_owned()));
        act.end(Err("no"));
        drop(audit.begin(Kind::Switchover, &"b".into(), Some("c".into())));
        let records = audit.records();
        let told: Vec<_> = records[0]
            .steps
            .iter()
            .map(|step| (&*step.what, step.outcome.as_deref().map_err(|error| &**error)))
            .collect();
        assert_eq!(told, [("ask", Ok("seven")), ("promote", Err("no"))]);
        assert_eq!((records[0].to.as_deref(), records[0].id), (Some("b"), 1));
        assert_eq!(records[1].outcome, Some(Err("it was broken off".into())));
    }

    #[test]
    fn old_records_are_forgotten() {
        let audit = Arc::new(Audit::default());
        for _ in 0..RECORDS_MAX + 3 {
            audit.begin(Kind::Failover, &"a".into(), None).end(Ok(()));
        }
        let records = audit.records();
        assert_eq!((records.len(), records[0].id), (RECORDS_MAX, 4));
    }
}
