-- The peer's books. Nothing is checked that the functions below do not check, and nothing is indexed that they do not
-- look up: every trigger, foreign key and further index would only slow it down.
CREATE TABLE accounts (
    id        text COLLATE "C" PRIMARY KEY,
    balance   bigint NOT NULL,
    overdraft boolean NOT NULL
) WITH (fillfactor = 50); -- room for the new version of a row on its own page

CREATE TABLE transfers (
    id     bigint PRIMARY KEY,
    payer  text NOT NULL,
    payee  text NOT NULL,
    amount bigint NOT NULL,
    made   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE entries (
    transfer bigint NOT NULL,
    account  text NOT NULL,
    amount   bigint NOT NULL
);

CREATE TABLE keys (
    key      text COLLATE "C" PRIMARY KEY,
    payer    text NOT NULL,
    payee    text NOT NULL,
    amount   bigint NOT NULL,
    status   smallint NOT NULL, -- 1: posted, 2: the balance is too small, 3: an account does not exist
    transfer bigint -- of what was posted
);

CREATE SEQUENCE transfer_ids CACHE 100;

-- pay makes one transfer, or says what became of the earlier one with the same key; status 4: the key is another transfer's.
-- The two rows are locked, by their updates, in the order of their ids.
CREATE FUNCTION pay(k text, paying text, paid text, sum bigint, OUT status smallint, OUT transfer bigint, OUT replayed boolean)
LANGUAGE plpgsql AS $$
DECLARE
    known keys;
    debited boolean := false;
    credited boolean := false;
BEGIN
    status := 1;
    transfer := nextval('transfer_ids');
    replayed := false;
    -- This waits while another transaction holds the same key.
    INSERT INTO keys VALUES (k, paying, paid, sum, 1, transfer) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO known FROM keys WHERE key = k;
        status := known.status;
        transfer := known.transfer;
        replayed := true;
        IF (known.payer, known.payee, known.amount) IS DISTINCT FROM (paying, paid, sum) THEN
            status := 4;
        END IF;
        RETURN;
    END IF;

    IF paying < paid COLLATE "C" THEN
        UPDATE accounts SET balance = balance - sum WHERE id = paying AND (overdraft OR balance >= sum);
        debited := FOUND;
        IF debited THEN
            UPDATE accounts SET balance = balance + sum WHERE id = paid;
            credited := FOUND;
        END IF;
    ELSE
        UPDATE accounts SET balance = balance + sum WHERE id = paid;
        credited := FOUND;
        IF credited THEN
            UPDATE accounts SET balance = balance - sum WHERE id = paying AND (overdraft OR balance >= sum);
            debited := FOUND;
        END IF;
    END IF;
    IF debited AND credited THEN
        INSERT INTO transfers (id, payer, payee, amount) VALUES (transfer, paying, paid, sum);
        INSERT INTO entries VALUES (transfer, paying, -sum), (transfer, paid, sum);
        RETURN;
    END IF;

    -- A refusal: undo what was done, and keep it under its key.
    IF debited THEN
        UPDATE accounts SET balance = balance + sum WHERE id = paying;
    END IF;
    IF credited THEN
        UPDATE accounts SET balance = balance - sum WHERE id = paid;
    END IF;
    status := CASE WHEN (SELECT count(*) FROM accounts WHERE id IN (paying, paid)) = 2 THEN 2 ELSE 3 END;
    transfer := NULL;
    UPDATE keys SET status = pay.status, transfer = NULL WHERE key = k;
END
$$;

-- pay_many makes many transfers as if by pay, one after the other: in sets when every payer can pay all its transfers out
-- of what it has before the first and every key is new, else one by one. It is for one caller at a time.
CREATE FUNCTION pay_many(ks text[], paying text[], paid text[], sums bigint[])
RETURNS TABLE (status smallint, transfer bigint, replayed boolean)
LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    touched bigint;
    updated bigint;
BEGIN
    BEGIN
        ids := ARRAY(SELECT nextval('transfer_ids') FROM generate_series(1, cardinality(ks)));
        WITH moves AS (
            SELECT u.id, -u.amount AS amount FROM unnest(paying, sums) AS u (id, amount)
            UNION ALL
            SELECT u.id, u.amount FROM unnest(paid, sums) AS u (id, amount)
        ), nets AS (
            SELECT id, sum(amount) AS net, sum(least(amount, 0)) AS debits FROM moves GROUP BY id
        ), changed AS (
            UPDATE accounts a SET balance = a.balance + n.net FROM nets n
            WHERE a.id = n.id AND (a.overdraft OR n.debits = 0 OR a.balance + n.debits >= 0)
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM nets), (SELECT count(*) FROM changed) INTO touched, updated;
        IF touched <> updated THEN
            RAISE EXCEPTION USING ERRCODE = 'DN001';
        END IF;
        INSERT INTO keys
            SELECT u.key, u.payer, u.payee, u.amount, 1, u.id
            FROM unnest(ks, paying, paid, sums, ids) AS u (key, payer, payee, amount, id);
        INSERT INTO transfers (id, payer, payee, amount)
            SELECT u.id, u.payer, u.payee, u.amount FROM unnest(ids, paying, paid, sums) AS u (id, payer, payee, amount);
        INSERT INTO entries
            SELECT u.id, u.payer, -u.amount FROM unnest(ids, paying, sums) AS u (id, payer, amount)
            UNION ALL
            SELECT u.id, u.payee, u.amount FROM unnest(ids, paid, sums) AS u (id, payee, amount);
        RETURN QUERY SELECT 1::smallint, u.id, false FROM unnest(ids) AS u (id);
        RETURN;
    EXCEPTION WHEN SQLSTATE 'DN001' OR unique_violation THEN
        NULL; -- all of it is undone
    END;
    FOR i IN 1 .. cardinality(ks) LOOP
        SELECT * INTO status, transfer, replayed FROM pay(ks[i], paying[i], paid[i], sums[i]);
        RETURN NEXT;
    END LOOP;
END
$$;
