-- no-transaction
CREATE INDEX CONCURRENTLY dish_name ON dish (name);
