//! What a statement costs before it is routed: a known digest, and a miss.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tiffin::sql::{Catalog, Classifier, ClassifierLimits, Dialect, classify};

const LIMITS: ClassifierLimits = ClassifierLimits { cache_max: 4096, parse_bytes_max: 1 << 20 };

const STATEMENTS: [(&str, &str); 4] = [
    ("34 bytes", "SELECT abalance FROM a WHERE aid=1"),
    (
        "200 bytes",
        "SELECT u.id, u.name, o.total, o.placed_at FROM users u JOIN orders o ON o.user_id = u.id \
         WHERE u.active AND o.total > 100 AND u.name LIKE 'a%' AND o.status IN ('new', 'paid') \
         ORDER BY o.id LIMIT 20",
    ),
    ("insert", "INSERT INTO orders (user_id, total, status) VALUES (17, 12.50, 'new')"),
    ("begin", "BEGIN"),
];

fn known(criterion: &mut Criterion) {
    let catalog = Catalog::empty();
    for (name, text) in STATEMENTS {
        let mut classifier = Classifier::new(LIMITS);
        criterion.bench_function(&format!("known: {name}"), |bench| {
            bench.iter(|| {
                classifier.classify(black_box(text.as_bytes()), Dialect::STANDARD, &catalog)
            });
        });
    }
}

fn new(criterion: &mut Criterion) {
    let catalog = Catalog::empty();
    for (name, text) in STATEMENTS {
        criterion.bench_function(&format!("new: {name}"), |bench| {
            bench.iter(|| {
                classify(black_box(text.as_bytes()), Dialect::STANDARD, &catalog, 1 << 20)
            });
        });
    }
}

criterion_group!(benches, known, new);
criterion_main!(benches);
