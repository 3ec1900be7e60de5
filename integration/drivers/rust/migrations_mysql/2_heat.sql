ALTER TABLE dish ADD heat ENUM('mild', 'hot') NOT NULL DEFAULT 'hot';
CREATE UNIQUE INDEX dish_name ON dish (name);
