CREATE TYPE heat AS ENUM ('mild', 'hot');
ALTER TABLE dish ADD heat heat NOT NULL DEFAULT 'hot';
