use super::fixture;
use crate::sql::classify;
#[test]
fn capture() {
    let text = std::fs::read_to_string("/tmp/hsql/cap.json").unwrap();
    let list: Vec<String> = serde_json::from_str(&text).unwrap();
    let catalog = fixture::catalog();
    let mut n = std::collections::BTreeMap::new();
    for sql in &list {
        let s = classify(sql.as_bytes(), true, &catalog, 1 << 20);
        *n.entry((format!("{:?}", s.effect), s.reason_code)).or_insert(0) += 1;
        if s.reason_code != "select"
            && s.reason_code != "show"
            && s.reason_code != "session"
            && s.reason_code != "transaction"
        {
            eprintln!("## {:?} {} {}\n{sql}\n", s.effect, s.reason_code, s.reason);
        }
    }
    eprintln!("{n:?}");
}
