/**
 * The API's tests once more, unchanged, on rung 4: reads go to replicas, and the client keeps no cookie that
 * could tell what it wrote.
 */
import './api/on-replicas.ts';
import './api/users.ts';
import './api/articles.ts';
import './api/every-operation.ts';
import './api/was-cached.ts';
