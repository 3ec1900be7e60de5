//! What is done when the primary is lost or handed over.

use super::secret::{is_given, secret};
use super::section::Section;
use super::{Coordination, Failover, LeaseTerms, Replay, Service, Switch, remote};

pub(super) fn failover(section: &Section<'_>, service: &Service) -> Failover {
    let login = match section.text("user") {
        Some(user) => Service { user, password: secret(section, "password"), ..service.clone() },
        None => service.clone(),
    };
    if !section.has("user") && is_given(section, "password") {
        section.note("password", "needs `user` beside it".to_owned());
    }
    let (detect, replication) = (section.section("detect"), section.section("replication"));
    let as_whom = replication.text("user").map(|user| Service {
        user,
        password: secret(&replication, "password"),
        database: String::new(),
    });
    if as_whom.is_none() && is_given(&replication, "password") {
        replication.note("password", "needs `user` beside it".to_owned());
    }
    Failover {
        mode: section.chosen("mode"),
        login,
        replication: as_whom,
        confirm: detect.duration("confirm"),
        timeout: detect.duration("timeout"),
        quorum: section.chosen("quorum"),
        lease: lease(section),
        resolve_commits: section.chosen::<Switch>("resolve_commits") == Switch::On,
        replay: replay(section),
        step_timeout: section.duration("step_timeout"),
        retry: section.duration("retry"),
        fence_command: section.text("fence_command"),
        rejoin_command: section.text("rejoin_command"),
        command_timeout: section.duration("command_timeout"),
    }
}

fn replay(section: &Section<'_>) -> Option<Replay> {
    let replay = Replay {
        statements_max: section.number("replay_statements_max"),
        bytes_max: section
            .size("replay_bytes_max")
            .map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        time_max: section.duration("replay_time_max"),
    };
    (section.chosen::<Switch>("replay") == Switch::On).then_some(replay)
}

fn lease(section: &Section<'_>) -> Option<LeaseTerms> {
    let terms = remote::lease(&section.section("etcd"));
    let coordination: Coordination = section.chosen("coordination");
    if coordination == Coordination::None {
        return None;
    }
    if terms.remote.addresses.is_empty() {
        let message = "is `etcd`, which needs `etcd.endpoints`".to_owned();
        section.contradiction("coordination", message);
    }
    Some(terms)
}
