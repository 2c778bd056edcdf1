/** What the invalidator is known by. */

/** In each database cluster. */
export const SLOT = 'banyan_cache';
export const PUBLICATION = 'banyan_cache';

/** Set for a database that Banyan does not run: how it is reached. A secret. */
export const DATABASE_VARIABLE = 'BANYAN_INVALIDATOR_DATABASE_URL';
