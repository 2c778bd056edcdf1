export async function sql(..._args: unknown[]): Promise<void> {}
