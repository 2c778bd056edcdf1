/** What can be wrong with what the application asks of the cache. */
import { BanyanError } from '../../errors.ts';

export class InvalidCacheKey extends BanyanError {
  constructor(what: string, remedy: string) {
    super('INVALID_CACHE_KEY', { what, where: 'cache.get', remedy });
  }
}

export class InvalidCacheOption extends BanyanError {
  constructor(name: string, value: unknown, remedy: string) {
    super('INVALID_CACHE_OPTION', {
      what: `${JSON.stringify(value) ?? String(value)} is no value for ${name}`,
      where: 'the cache',
      remedy,
    });
  }
}

/** A loader's result holds something that another process could not be given. */
export class NotStorable extends BanyanError {
  /** Where in the value: `value.author.save`. */
  readonly path: string;

  constructor(path: string, what: string) {
    super('NOT_STORABLE', {
      what: `The loader's result cannot be kept: ${path} is ${what}`,
      where: path,
      remedy:
        'Give plain objects and arrays of texts, numbers, bigints, booleans, dates, bytes, maps and sets',
    });
    this.path = path;
  }
}
