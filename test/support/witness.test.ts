/** The witness sees what it is there to see: each kind of wrong is done on purpose and has to be found. */
import { expect, test } from 'vitest';
import { Refused, type Subject, Witness } from './witness.ts';

/** An honest memory, of which a test spoils one part. */
class Memory implements Subject {
  readonly stored = new Map<number, number[]>();

  of(session: number): number[] {
    const values = this.stored.get(session) ?? [];
    this.stored.set(session, values);
    return values;
  }
  async write(session: number, value: number): Promise<void> {
    this.of(session).push(value);
  }
  async read(session: number): Promise<number[]> {
    return this.of(session);
  }
  async recount(session: number): Promise<number[]> {
    return this.of(session);
  }
}

async function accountOf(subject: Subject) {
  const witness = new Witness(subject, { sessions: 2, pauseMs: 1 }).start();
  await witness.untilAcknowledged(40);
  return witness.stop();
}

test('an honest subject has a clean account', async () => {
  const account = await accountOf(new Memory());
  expect(account).toMatchObject({
    lost: [],
    stale: [],
    duplicated: [],
    phantoms: [],
    failures: {},
  });
  expect(account.writes.acknowledged).toBeGreaterThanOrEqual(40);
  expect(account.reads.answered).toBeGreaterThanOrEqual(40);
});

test('a write that was acknowledged and not kept is lost, and stale before', async () => {
  class Forgetful extends Memory {
    override async write(session: number, value: number) {
      if (value !== 7) await super.write(session, value);
    }
  }
  const account = await accountOf(new Forgetful());
  expect(account.lost).toEqual(['0:7', '1:7']);
  expect(account.stale).toEqual(['0:7', '1:7']);
});

test('a write that is there twice is duplicated', async () => {
  class Stammering extends Memory {
    override async write(session: number, value: number) {
      await super.write(session, value);
      if (value === 5) await super.write(session, value);
    }
  }
  expect((await accountOf(new Stammering())).duplicated).toEqual(['0:5', '1:5']);
});

test('a write that was refused and is there is a phantom; one of unknown outcome may be there', async () => {
  class Lying extends Memory {
    override async write(session: number, value: number) {
      await super.write(session, value);
      if (value === 3) throw new Refused('no');
      if (value === 4) throw new Error('broken pipe');
    }
  }
  const account = await accountOf(new Lying());
  expect(account.phantoms).toEqual(['0:3', '1:3']);
  expect(account.writes).toMatchObject({ refused: 2, unknown: 2 });
  expect(account.lost).toEqual([]);
  expect(account.failures).toEqual({ 'write: no': 2, 'write: broken pipe': 2 });
});

test('a read from an old copy is stale', async () => {
  class Lagging extends Memory {
    override async read(session: number) {
      return this.of(session).slice(0, -1);
    }
  }
  const account = await accountOf(new Lagging());
  expect(account.stale.length).toBeGreaterThanOrEqual(38);
  expect(account.lost).toEqual([]);
});
