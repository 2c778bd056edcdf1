/**
 * Every operation of the document, on the real server: what it answers when all is well and when not.
 * In one file, so that the last test can tell which of the documented answers have been seen.
 */
import './api/users.ts';
import './api/articles.ts';
import './api/every-operation.ts';
