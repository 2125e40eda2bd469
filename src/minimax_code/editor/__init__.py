"""MiniMax Code in editors that speak the Agent Client Protocol: Zed, Neovim, JetBrains and others."""
