/**
 * The API's tests once more, unchanged, on rung 3: three servers behind a balancer that picks one at random
 * for each request. State that a server kept to itself would show.
 */
import './api/behind-balancer.ts';
import './api/users.ts';
import './api/articles.ts';
import './api/every-operation.ts';
