package realm

// The fields of requests, in the order of their encoding.

func (q *SignUp) fields(c *coder) {
	c.user(&q.User)
	c.text(&q.Login, "login", LoginBytesMax)
	c.text(&q.Name, "name", NameBytesMax)
	c.text(&q.Email, "email", EmailBytesMax)
	c.text(&q.Password, "password", PasswordBytesMax)
	c.flag(&q.Short)
	c.by(&q.By)
	c.address(&q.Address)
}

func (o *Opening) fields(c *coder) {
	c.fixed(o.Session[:])
	c.fixed(o.Key[:])
	c.fixed(o.Token[:])
	c.text(&o.Client, "client", ClientBytesMax)
	c.text(&o.Scope, "scope", ScopeBytesMax)
	c.text(&o.Agent, "agent", AgentBytesMax)
	c.address(&o.Address)
}

func (q *LogIn) fields(c *coder) {
	c.user(&q.User)
	number(c, &q.Checked)
	number(c, &q.Step)
	c.fixed(q.Recovery[:])
	c.text(&q.Rehash, "password", PasswordBytesMax)
	q.Opening.fields(c)
}

func (q *Refresh) fields(c *coder) {
	c.fixed(q.Session[:])
	number(c, &q.Generation)
	c.fixed(q.Token[:])
	c.fixed(q.Next[:])
	c.bytes(&q.Sealed, "sealed successor", SecretBytesMax)
	c.text(&q.Agent, "agent", AgentBytesMax)
	c.address(&q.Address)
}

func (q *EndSession) fields(c *coder) {
	c.fixed(q.Session[:])
	c.flag(&q.Any)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *EndSessions) fields(c *coder) {
	c.user(&q.User)
	c.fixed(q.Keep[:])
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *RevokeToken) fields(c *coder) {
	c.fixed(q.ID[:])
	number(c, &q.Expires)
	c.user(&q.User)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *SetPassword) fields(c *coder) {
	c.user(&q.User)
	number(c, &q.Checked)
	c.text(&q.Password, "password", PasswordBytesMax)
	c.flag(&q.Short)
	c.fixed(q.Keep[:])
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *Rehash) fields(c *coder) {
	c.user(&q.User)
	number(c, &q.Checked)
	c.text(&q.Password, "password", PasswordBytesMax)
}

func (q *SetDisabled) fields(c *coder) {
	c.user(&q.User)
	c.flag(&q.Disabled)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *SetGroups) fields(c *coder) {
	c.user(&q.User)
	c.groups(&q.Groups)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *AddTOTP) fields(c *coder) {
	c.user(&q.User)
	number(c, &q.Checked)
	c.bytes(&q.Secret, "secret", SecretBytesMax)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *ConfirmTOTP) fields(c *coder) {
	c.user(&q.User)
	c.bytes(&q.Secret, "secret", SecretBytesMax)
	number(c, &q.Step)
	c.recovery(&q.Recovery)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *RemoveTOTP) fields(c *coder) {
	c.user(&q.User)
	number(c, &q.Checked)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *AddKey) fields(c *coder) {
	c.text(&q.ID, "key id", KeyIDBytesMax)
	c.text(&q.Alg, "alg", AlgBytesMax)
	c.bytes(&q.Public, "public key", KeyBytesMax)
	c.bytes(&q.Sealed, "sealed key", KeyBytesMax)
	number(c, &q.Cache)
	c.by(&q.By)
}

func (q *ImportLegacy) fields(c *coder) {
	list(c, &q.Tokens, "tokens", RowsMax, len(Hash{})+3, func(c *coder, row *LegacyToken) {
		c.fixed(row.Hash[:])
		c.user(&row.User)
		number(c, &row.Expires)
		c.flag(&row.Revoked)
	})
	c.by(&q.By)
}

func (q *RevokeLegacy) fields(c *coder) {
	c.fixed(q.Hash[:])
	number(c, &q.Expires)
	c.by(&q.By)
	c.address(&q.Address)
}

func (q *ExchangeLegacy) fields(c *coder) {
	c.fixed(q.Hash[:])
	c.bytes(&q.Sealed, "sealed successor", SecretBytesMax)
	q.Opening.fields(c)
}

func (q *SetStage) fields(c *coder) {
	c.text(&q.Route, "route", RouteBytesMax)
	number(c, &q.Stage)
	c.by(&q.By)
}

func (q *Seed) fields(c *coder) {
	list(c, &q.Users, "users", RowsMax, 6, func(c *coder, row *SeedUser) {
		c.user(&row.User)
		c.text(&row.Login, "login", LoginBytesMax)
		c.text(&row.Name, "name", NameBytesMax)
		c.text(&row.Email, "email", EmailBytesMax)
		c.text(&row.Password, "password", PasswordBytesMax)
		c.groups(&row.Groups)
	})
	c.by(&q.By)
}

func (q *Note) fields(c *coder) {
	c.text(&q.Kind, "kind", EventBytesMax)
	c.user(&q.User)
	c.by(&q.By)
	c.fixed(q.Session[:])
	c.address(&q.Address)
	c.text(&q.Detail, "detail", DetailBytesMax)
}
