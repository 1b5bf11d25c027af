// Package ecs takes the place of Traefik's: the AWS SDK it needs takes longer to compile than Traefik itself.
package ecs

import (
	"errors"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/safe"
)

// Provider has no options: to name it in Traefik's configuration is an error.
type Provider struct{}

// SetDefaults sets nothing.
func (p *Provider) SetDefaults() {}

// Init refuses.
func (p *Provider) Init() error {
	return errors.New("this Traefik is built without the ECS provider")
}

// Provide gives no configuration.
func (p *Provider) Provide(chan<- dynamic.Message, *safe.Pool) error {
	return nil
}
