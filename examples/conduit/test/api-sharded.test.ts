/** The API's tests once more, unchanged, on rung 11: people and what they wrote are spread over four databases. */
import './api/on-shards.ts';
import './api/users.ts';
import './api/articles.ts';
import './api/every-operation.ts';
import './api/was-cached.ts';
