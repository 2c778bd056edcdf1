/**
 * What of a `pg.Client` needs no connection: escaping, type parsers, names. The rest is in `routed-client.ts`.
 */
import { EventEmitter } from 'node:events';
import pg from 'pg';

export class ClientFace extends EventEmitter {
  protected readonly options: pg.PoolConfig;
  /** Of this client alone, once it has set one. */
  protected types: pg.CustomTypesConfig | undefined;

  constructor(options: pg.PoolConfig) {
    super();
    this.options = options;
  }

  get database(): string | undefined {
    return this.options.database;
  }

  get user(): string | undefined {
    return this.options.user;
  }

  escapeIdentifier(text: string): string {
    return pg.escapeIdentifier(text);
  }

  escapeLiteral(text: string): string {
    return pg.escapeLiteral(text);
  }

  setTypeParser(...args: Parameters<pg.TypeOverrides['setTypeParser']>): void {
    this.types ??= new pg.TypeOverrides(this.options.types as never) as never;
    (this.types as unknown as pg.TypeOverrides).setTypeParser(...args);
  }

  getTypeParser(...args: Parameters<pg.TypeOverrides['getTypeParser']>): unknown {
    return ((this.types ?? this.options.types ?? pg.types) as pg.TypeOverrides).getTypeParser(
      ...args,
    );
  }

  ref(): void {}
  unref(): void {}

  connect(callback?: (error: Error) => void): Promise<never> | undefined {
    const error = new Error('Client has already been connected. You cannot reuse a client.');
    if (!callback) return Promise.reject(error);
    process.nextTick(callback, error);
    return undefined;
  }
}
