use super::*;
use crate::config::fixture::routing;
use crate::session::Overrides;
use crate::session::Settings;
use crate::session::transaction::Held;

fn modes(read_only: Option<bool>, isolation: Option<Isolation>) -> TransactionModes {
    TransactionModes { read_only, isolation, deferrable: None }
}

fn words(session: &Session, class: Class, hint: Option<Hint>) -> String {
    match session.need(&class, hint.as_ref(), &routing()) {
        Need::Primary(reason) => format!("primary: {}", reason.as_str()),
        Need::Any => "any".to_owned(),
        Need::Replica(need) => format!(
            "replica: {} {:?} transaction={}",
            need.consistency.as_str(),
            need.lag_max.map(|lag| lag.as_millis()),
            need.transaction
        ),
    }
}

fn with_setting(name: &str, value: &str) -> Session {
    let mut settings = Settings::default();
    settings.set(name.into(), value.into());
    Session::new(Arc::new(settings))
}

fn held(modes: TransactionModes) -> Session {
    let transaction = Transaction::Held(Held { texts: vec![], modes });
    let mut session = Session::default();
    session.transaction = transaction;
    session
}

#[test]
fn needs() {
    let read = "replica: session Some(1000) transaction=false";
    let read_transaction = "replica: session Some(1000) transaction=true";
    let write = Class::Write(RouteReason::Write);
    let begin = |read_only, isolation| Class::Begin(modes(read_only, isolation));
    let table: Vec<(Session, Class, &str)> = vec![
        (Session::default(), Class::Read, read),
        (Session::default(), Class::Session, "any"),
        (Session::default(), write.clone(), "primary: write"),
        (Session::default(), begin(None, None), "primary: transaction"),
        (Session::default(), begin(Some(true), None), read_transaction),
        (
            Session::default(),
            begin(Some(true), Some(Isolation::Serializable)),
            "primary: serializable",
        ),
        (held(modes(None, None)), Class::Read, "primary: transaction"),
        (held(modes(Some(true), None)), Class::Read, read_transaction),
        (held(modes(Some(true), None)), Class::Session, read_transaction),
        (held(modes(Some(true), None)), write, "primary: write"),
        (with_setting("default_transaction_read_only", "on"), begin(None, None), read_transaction),
        (
            with_setting("default_transaction_read_only", "on"),
            begin(Some(false), None),
            "primary: transaction",
        ),
        (
            with_setting("default_transaction_isolation", "'serializable'"),
            Class::Read,
            "primary: serializable",
        ),
    ];
    for (session, class, expected) in table {
        assert_eq!(words(&session, class.clone(), None), expected, "{class:?}");
    }
}

#[test]
fn hints_and_overrides_narrow_the_choice() {
    let target = |target| Hint { target: Some(target), ..Hint::default() };
    let strong = Hint { consistency: Some(Consistency::Strong), ..Hint::default() };
    let lag = Hint { lag_max: Some(Duration::from_secs(5)), ..Hint::default() };
    let session = Session::default();
    let hinted = |hint| words(&session, Class::Read, Some(hint));
    assert_eq!(hinted(target(HintTarget::Primary)), "primary: hint_primary");
    assert_eq!(hinted(strong.clone()), "primary: strong");
    assert_eq!(hinted(lag), "replica: session Some(5000) transaction=false");
    assert_eq!(
        words(&session, Class::Write(RouteReason::Write), Some(target(HintTarget::Replica))),
        "primary: write",
        "a hint never sends a write to a replica"
    );
    let overrides = Overrides { consistency: Some(Consistency::Eventual), ..Overrides::default() };
    let mut eventual = Session::default();
    eventual.overrides = overrides;
    assert_eq!(words(&eventual, Class::Read, None), "replica: eventual None transaction=false");
    assert_eq!(words(&eventual, Class::Read, Some(strong)), "primary: strong");
}
